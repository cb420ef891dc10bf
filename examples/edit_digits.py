"""Turn digits into others that keep their hand: RF-Inversion, with learned schedules too, beside FlowEdit and
SDEdit.
"""

# %%
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from bundled import denoiser, load
from common import options, write
from data import digit_images
from torch import Tensor
from train import held_out

from pullback.guidance import edit
from pullback.solvers import Addressed, FlowEuler, UniformT

SCALE, GRID = 2.0, UniformT(16)
STOPS, WEIGHTS = (0.1, 0.25, 0.4, 0.5, 0.6, 0.7), (10.0, 5.0, 2.0)
SHOWN = ((4, 9), (1, 7), (3, 8), (0, 6), (7, 1), (9, 4), (5, 6), (8, 3), (6, 0))


def main() -> None:
    run = options(__doc__, count=96, steps=20)
    model = denoiser("digits_flow")
    model.network.to(run.device)  # type: ignore[attr-defined]
    reader, judge = (load(f"classifier{k}").to(run.device) for k in (0, 1))
    images, labels = (value.to(run.device) for value in digit_images())
    train, test = held_out(len(images), 0.1)
    noise = Addressed(run.seed)

    def aims(count: int) -> Tensor:
        return 1 + torch.arange(count, device=run.device) % 9

    # learn gamma(t) and eta(t) on digits that are not among those edited below; the judge never enters a loss
    some, wanted = images[train[:32]], (labels[train[:32]] + aims(32)) % 10
    schedules = {}
    for weight in WEIGHTS:

        def loss(out: Tensor, weight: float = weight) -> Tensor:
            return F.cross_entropy(reader(out), wanted, reduction="none") + weight * (
                out - some
            ).square().flatten(1).mean(1)

        schedules[weight] = edit.learn_schedule(
            model,
            some,
            loss,
            target=wanted,
            scale=SCALE,
            grid=GRID,
            steps=run.steps,
            lr=0.1,
            learn_gamma=True,
            shared=True,
            noise=noise,
        )

    x, source = images[test[: run.count]], labels[test[: run.count]]
    target = (source + aims(len(x))) % 10
    curves = sweep(methods(model, noise, schedules), x, source, target)
    facts: dict[str, Any] = {
        name: [measure(out, x, target, (reader, judge), images[train]) for out in outs]
        for name, outs in curves.items()
    }
    facts["real"] = {"nearest": nearest(x, images[train])}
    facts["eta"] = {str(w): found.eta.tolist() for w, found in schedules.items()}
    facts["gamma"] = {str(w): found.gamma.tolist() for w, found in schedules.items()}
    for name in curves:
        for row in facts[name]:
            print(f"{name:40} " + "  ".join(f"{key} {value:.2f}" for key, value in row.items()))

    first = [int((labels[test] == a).nonzero()[0]) for a, _ in SHOWN]
    picked, source = images[test[first]], labels[test[first]]
    target = torch.tensor([b for _, b in SHOWN], device=run.device)
    shown = sweep(methods(model, noise, schedules), picked, source, target)
    rows = {
        "source": picked,
        "RF-Inversion": shown[HAND][3],
        "learned": shown[LEARNED][1],
        "FlowEdit": shown["FlowEdit"][2],
        "SDEdit": shown["SDEdit"][2],
    }
    write(run.out, "edit_digits", draw(rows, facts, schedules), facts)


HAND, BARE, FRESH = "RF-Inversion, gamma 0.5", "RF-Inversion, gamma 0", "fresh noise, same windows"
LEARNED = "RF-Inversion, learned gamma(t), eta(t)"


def methods(
    model: Any, noise: Addressed, schedules: dict[float, edit.Learned]
) -> dict[str, list[Callable[[Tensor, Tensor, Tensor], Tensor]]]:
    """By name, from a faithful to a free edit: (image, source, target) to the edited image."""

    def inversion(gamma: Any, eta: Any) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        return lambda x, a, b: (
            edit.rf_inversion(
                model, x, target=b, gamma=gamma, eta=eta, grid=GRID, noise=noise, scale=SCALE
            ).sample
        )

    def fresh(stop: float) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        return lambda x, a, b: edit.rf_regenerate(
            model, noise.initial(x), x, cond=b, eta=edit.Schedule(0.9, stop=stop), grid=GRID, scale=SCALE
        )

    def flow_edit(n_max: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        return lambda x, a, b: (
            edit.flow_edit(
                model,
                x,
                source=a,
                target=b,
                n_max=n_max,
                noise=noise,
                grid=GRID,
                source_scale=1.5,
                target_scale=SCALE,
            ).sample
        )

    def sdedit(steps: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        plan = FlowEuler().plan(model.process, GRID.times(model.process)[16 - steps :])
        return lambda x, a, b: edit.sdedit(model, plan, x, target=b, noise=noise, scale=SCALE).sample

    return {
        HAND: [inversion(0.5, edit.Schedule(0.9, stop=stop)) for stop in reversed(STOPS)],
        BARE: [inversion(0.0, edit.Schedule(0.9, stop=stop)) for stop in reversed(STOPS)],
        FRESH: [fresh(stop) for stop in reversed(STOPS)],
        LEARNED: [inversion(found.gamma, found.eta) for found in schedules.values()],
        "FlowEdit": [flow_edit(n) for n in (4, 6, 8, 10, 12, 16)],
        "SDEdit": [sdedit(n) for n in (4, 6, 8, 10, 12, 14)],
    }


def sweep(calls: dict[str, Any], x: Tensor, source: Tensor, target: Tensor) -> dict[str, list[Tensor]]:
    with torch.no_grad():
        return {name: [call(x, source, target) for call in several] for name, several in calls.items()}


def hand(x: Tensor) -> tuple[Tensor, Tensor]:
    """(ink, slant) of images (B, 1, S, S): mean darkness, and the shear that makes their second moments upright."""
    dark = ((x + 1) / 2).clamp(0, 1)[:, 0]
    total, at = dark.sum((1, 2)), torch.arange(x.shape[-1], device=x.device, dtype=x.dtype)
    row, column = ((dark * grid).sum((1, 2)) / total for grid in (at[:, None], at))
    up, right = at[:, None] - row[:, None, None], at - column[:, None, None]
    return total / at.numel() ** 2, (dark * up * right).sum((1, 2)) / (dark * up * up).sum((1, 2))


def measure(
    out: Tensor, x: Tensor, target: Tensor, classifiers: tuple[Any, Any], real: Tensor
) -> dict[str, float]:
    """Share of targets read by either classifier, distance to the source and to the nearest of the real
    digits, and the correlations of ink and slant with the source's.
    """
    read = [float((net(out).argmax(1) == target).double().mean()) for net in classifiers]
    ink, slant = (
        float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in zip(hand(out), hand(x), strict=True)
    )
    return {
        "reader": read[0],
        "judge": read[1],
        "distance": float((out - x).square().mean().sqrt()),
        "nearest": nearest(out, real),
        "ink": ink,
        "slant": slant,
    }


def nearest(x: Tensor, real: Tensor) -> float:
    """Mean rms distance to the closest of `real`: what a blend of two digits cannot hide."""
    return float(torch.cdist(x.flatten(1), real.flatten(1)).amin(1).mean() / x[0].numel() ** 0.5)


def draw(rows: dict[str, Tensor], facts: dict[str, Any], schedules: dict[float, edit.Learned]):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    colours = {
        HAND: "#1f4e79",
        BARE: "#6fa8dc",
        FRESH: "#9e9e9e",
        LEARNED: "#c0392b",
        "FlowEdit": "#2e8b57",
        "SDEdit": "#e08e0b",
    }
    figure = plt.figure(figsize=(15, 5.4))
    halves: Any = figure.subfigures(1, 2, width_ratios=(1.15, 1))
    left, right = halves
    grid = left.subplots(len(rows), len(SHOWN), gridspec_kw={"wspace": 0.06, "hspace": 0.06})
    left.subplots_adjust(left=0.14, right=0.98, bottom=0.03, top=0.93)
    for (name, images), axes in zip(rows.items(), grid, strict=True):
        for k, axis in enumerate(axes):
            axis.imshow(images[k, 0].cpu(), cmap="gray_r", vmin=-1, vmax=1)
            axis.set(xticks=[], yticks=[])
            if name == "source":
                axis.set_title("{} → {}".format(*SHOWN[k]), fontsize=12)
        axes[0].set_ylabel(
            name,
            rotation=0,
            ha="right",
            va="center",
            fontsize=12,
            color="#c0392b" if name == "learned" else "k",
        )
    plane, times = right.subplots(2, 1, gridspec_kw={"height_ratios": (2.1, 1), "hspace": 0.42})
    for name, colour in colours.items():
        points = [(row["distance"], row["judge"]) for row in facts[name]]
        star = name == LEARNED
        plane.plot(
            *zip(*points, strict=True),
            color=colour,
            label=name,
            marker="*" if star else "o",
            ms=14 if star else 4,
            ls="--" if name == FRESH else "-",
            zorder=3 if star else 2,
        )
    plane.set(
        xlabel="distance to the source (rms)",
        ylabel="target digit read\nby the held-out classifier",
        ylim=(-0.03, 1.05),
    )
    plane.legend(fontsize=8.5, frameon=False, loc="lower right")
    found = schedules[WEIGHTS[1]]
    count = len(found.eta)
    window = edit.Schedule(0.9, stop=STOPS[2]).values(count)
    for label, values, colour, line in (
        ("eta, learned", found.eta, colours[LEARNED], "-"),
        ("gamma, learned", found.gamma, "#e6a39c", "-"),
        ("eta, by hand", window, colours[HAND], ":"),
    ):
        times.stairs(
            values.cpu(), [k / count for k in range(count + 1)], color=colour, label=label, ls=line, lw=2
        )
    times.set(xlabel="share of the pass", ylim=(0, 1.05), xlim=(0, 1))
    times.legend(fontsize=8.5, frameon=False, loc="upper right")
    for axis in (plane, times):
        axis.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    main()
