"""The pictures of `face_morph.py`: one pair, and the table of many."""

from collections.abc import Collection, Mapping
from typing import Any

import matplotlib
from common import COLOURS, GREY
from shared.morph_judges import Judge
from torch import Tensor

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

# told apart by colour, shape and grey value
MARKS = {
    "pixel mean": (GREY, "s"),
    "mean of latents": (COLOURS[4], "D"),
    "optimised latent": (COLOURS[0], "o"),
}


def show(axis: Any, image: Tensor, title: str = "", colour: str = "black") -> None:
    axis.imshow(image.squeeze().cpu(), cmap="gray", vmin=-1, vmax=1, interpolation="bicubic")
    axis.set_title(title, fontsize=11, color=colour, pad=5)
    axis.set_xticks([])
    axis.set_yticks([])
    for side in axis.spines.values():
        side.set_visible(False)


def draw_morph(
    pair: Tensor,
    morphs: Mapping[str, Tensor],
    path: Tensor,
    distances: Mapping[str, Mapping[str, Tensor]],
    known: Mapping[str, Judge],
    attacked: Collection[str],
) -> Any:
    """Both faces and the morphs between them, the way through the optimised one, and what recognisers say."""
    figure = plt.figure(figsize=(11, 7.6))
    rows = figure.add_gridspec(3, 1, height_ratios=(2.25, 1.15, 2.1), hspace=0.13)
    top = rows[0].subgridspec(1, 5, wspace=0.06)
    show(figure.add_subplot(top[0]), pair[0], "face A")
    for k, (name, image) in enumerate(morphs.items()):
        show(figure.add_subplot(top[k + 1]), image, name, MARKS[name][0])
    show(figure.add_subplot(top[4]), pair[1], "face B")
    strip = rows[1].subgridspec(1, len(path), wspace=0.04)
    for k, image in enumerate(path):
        show(
            figure.add_subplot(strip[k]),
            image,
            "from A through the optimised morph to B" if k == len(path) // 2 else "",
        )
    axis = figure.add_subplot(rows[2])
    names = list(known)[::-1]
    for y, judge in enumerate(names):
        limit, strict = known[judge].thresholds
        for name, (colour, marker) in MARKS.items():
            value = float(distances[name][judge][0]) / limit
            axis.scatter(value, y, s=95, c=colour, marker=marker, zorder=3, label=name if y == 0 else None)
        axis.plot([strict / limit] * 2, [y - 0.3, y + 0.3], color="black", lw=1.2, ls=":", zorder=2)
    axis.axvline(1, color="black", lw=1.4)
    low, high = axis.get_xlim()
    axis.set_xlim(max(0.0, low), max(high, 1.3))
    axis.axvspan(0, 1, color=COLOURS[0], alpha=0.06, lw=0)
    axis.set_ylim(-0.6, len(names) - 0.4)
    axis.set_yticks(
        range(len(names)), [f"{name}\n{'attacked' if name in attacked else 'held out'}" for name in names]
    )
    axis.text(
        0.995, len(names) - 0.45, "taken for both faces ", ha="right", va="top", fontsize=9, color=COLOURS[0]
    )
    axis.text(1.005, len(names) - 0.45, " not for both", ha="left", va="top", fontsize=9, color="black")
    axis.set_xlabel(
        "distance to the farther face, in thresholds: 1 lets 1 % of strangers pass, the dotted line 0.1 %"
    )
    axis.legend(frameon=False, fontsize=9, loc="lower right")
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def draw_table(facts: Mapping[str, Any], settings: Mapping[str, Collection[str]]) -> Any:
    """By setting and recogniser the share of morphs taken for both faces, at 1 % of strangers, with its interval."""
    figure, axes = plt.subplots(1, len(settings), figsize=(5 * len(settings), 5.6), sharey=True)
    for axis, (setting, attacked) in zip(axes, settings.items(), strict=True):
        rows = facts["settings"][setting]
        methods = list(rows)[::-1]
        for k, judge in enumerate(next(iter(rows.values()))["mmpmr"]):
            held_out = judge not in attacked
            for y, method in enumerate(methods):
                value, low, high = rows[method]["mmpmr"][judge]["0.01"]
                at = y + 0.18 * (1.5 - k)
                axis.plot([100 * low, 100 * high], [at, at], color=COLOURS[k], lw=1.2, alpha=0.5)
                axis.scatter(
                    100 * value, at, s=42, marker="o" if held_out else "s", zorder=3, color=COLOURS[k],
                    facecolors="white" if held_out else COLOURS[k],
                    label=f"{judge} ({'held out' if held_out else 'attacked'})" if y == 0 else None,
                )  # fmt: skip
        axis.set_yticks(range(len(methods)), methods)
        axis.set_xlim(-3, 103)
        axis.set_xlabel("morphs taken for both faces, % (1 % of strangers pass)")
        axis.set_title(f"attacked: {setting}", fontsize=11)
        axis.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, -0.27), ncols=2)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="x", alpha=0.2)
    return figure
