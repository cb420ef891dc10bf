"""Turn digits into others that keep their hand: RF-Inversion, with learned schedules too, beside FlowEdit and
SDEdit. The baseline edits nothing: it takes the real training digit of the target class that is nearest.
"""

# %%
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from common import COLOURS, GREY, LINES, MARKERS, options, pyplot, write
from torch import Tensor

from pullback.guidance import edit
from pullback.solvers import Addressed, FlowEuler, UniformT
from pullback.zoo import MNIST_HELD_OUT, MNIST_TRAIN, denoiser, load, mnist_images

SCALE, STEPS = 2.0, 12
GRID = UniformT(STEPS)
STOPS, WEIGHTS = (0.1, 0.2, 0.3, 0.4, 0.5), (5.0, 2.0)
SHOWN = ((4, 9), (1, 7), (3, 8), (0, 6), (7, 1), (9, 4), (5, 6), (8, 3), (6, 0))


def main() -> None:
    run = options(__doc__, count=36, updates=8, taught=18)
    model = denoiser("mnist_flow")
    model.network.to(run.device)  # type: ignore[attr-defined]
    reader, judge = (load(f"mnist_classifier{k}").to(run.device) for k in (0, 1))
    images, labels = (value.to(run.device) for value in mnist_images())
    real, known = images[MNIST_TRAIN], labels[MNIST_TRAIN]
    held, held_labels = images[MNIST_HELD_OUT], labels[MNIST_HELD_OUT]
    noise = Addressed(run.seed)

    def aims(count: int) -> Tensor:
        return 1 + torch.arange(count, device=run.device) % 9

    # learn gamma(t) and eta(t) on digits that are not among those edited below; the judge never enters a loss
    some, wanted = real[: run.taught], (known[: run.taught] + aims(run.taught)) % 10
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
            steps=run.updates,
            lr=0.1,
            gamma=0.0,
            learn_gamma=True,
            shared=True,
            noise=noise,
        )

    x, source = held[: run.count], held_labels[: run.count]
    target = (source + aims(len(x))) % 10
    calls = methods(model, noise, schedules) | {RETRIEVED: [retrieval(real, known)]}
    curves = sweep(calls, x, source, target)
    facts: dict[str, Any] = {
        name: [measure(out, x, target, (reader, judge), real) for out in outs]
        for name, outs in curves.items()
    }
    facts["real"] = {"nearest": nearest(x, real)}
    facts["eta"] = {str(w): found.eta.tolist() for w, found in schedules.items()}
    facts["gamma"] = {str(w): found.gamma.tolist() for w, found in schedules.items()}
    for name in curves:
        for row in facts[name]:
            print(f"{name:40} " + "  ".join(f"{key} {value:.2f}" for key, value in row.items()))

    # the first held-out digit of each class, behind those that are measured
    first = [run.count + int((held_labels[run.count :] == a).nonzero()[0]) for a, _ in SHOWN]
    picked, source = held[first], held_labels[first]
    target = torch.tensor([b for _, b in SHOWN], device=run.device)
    few = {name: [calls[name][chosen(facts[name])]] for name in PICTURED}
    shown = sweep(few, picked, source, target)
    rows = {"source": picked} | {name: shown[name][0] for name in PICTURED}
    write(run.out, "edit_digits", draw(rows, facts, schedules), facts)


def chosen(rows: list[dict[str, float]]) -> int:
    """The most faithful setting of a method that the judge reads as often as any of them: ghosts are told apart."""
    return max(range(len(rows)), key=lambda k: (rows[k]["judge"], -rows[k]["distance"]))


HAND, BARE, FRESH = "RF-Inversion, gamma 0.5", "RF-Inversion, gamma 0", "fresh noise, same windows"
LEARNED, RETRIEVED = "RF-Inversion, learned gamma(t), eta(t)", "nearest real digit"
PICTURED = (HAND, BARE, LEARNED, "FlowEdit", "SDEdit", RETRIEVED)
SHORT = {HAND: "RF-Inversion", BARE: "gamma 0", LEARNED: "learned"}


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
        plan = FlowEuler().plan(model.process, GRID.times(model.process)[STEPS - steps :])
        return lambda x, a, b: edit.sdedit(model, plan, x, target=b, noise=noise, scale=SCALE).sample

    return {
        HAND: [inversion(0.5, edit.Schedule(0.9, stop=stop)) for stop in reversed(STOPS)],
        BARE: [inversion(0.0, edit.Schedule(0.9, stop=stop)) for stop in reversed(STOPS)],
        FRESH: [fresh(stop) for stop in reversed(STOPS)],
        LEARNED: [inversion(found.gamma, found.eta) for found in schedules.values()],
        "FlowEdit": [flow_edit(n) for n in (6, 8, 9, 10, 12)],
        "SDEdit": [sdedit(n) for n in (6, 7, 8, 9, 10)],
    }


def retrieval(real: Tensor, known: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The real digit of the target class that is nearest to the source."""

    def find(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        far = torch.cdist(x.flatten(1), real.flatten(1))
        return real[far.masked_fill(known != b[:, None], torch.inf).argmin(1)]

    return find


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
    plt = pyplot()
    order = (HAND, LEARNED, "FlowEdit", BARE, "SDEdit", FRESH, RETRIEVED)
    colours = dict(zip(order, COLOURS, strict=True))
    figure = plt.figure(figsize=(15, 5.6))
    halves: Any = figure.subfigures(1, 2, width_ratios=(1.15, 1))
    left, right = halves
    grid = left.subplots(len(rows), len(SHOWN), gridspec_kw={"wspace": 0.06, "hspace": 0.06})
    left.subplots_adjust(left=0.16, right=0.93, bottom=0.03, top=0.93)
    for (name, images), axes in zip(rows.items(), grid, strict=True):
        for k, axis in enumerate(axes):
            axis.imshow(images[k, 0].cpu(), cmap="gray_r", vmin=-1, vmax=1)
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            if name == "source":
                axis.set_title("{} → {}".format(*SHOWN[k]), fontsize=12)
        axes[0].set_ylabel(SHORT.get(name, name), rotation=0, ha="right", va="center", fontsize=12)
        if name in PICTURED:
            row = facts[name][chosen(facts[name])]
            axes[-1].text(
                1.08, 0.5, f"read {row['judge']:.0%}\ndistance {row['distance']:.2f}\nto real {row['nearest']:.2f}",
                transform=axes[-1].transAxes, va="center", fontsize=8.5,
            )  # fmt: skip
    plane, times = right.subplots(2, 1, gridspec_kw={"height_ratios": (2.1, 1), "hspace": 0.42})
    for k, (name, colour) in enumerate(colours.items()):
        points = [(row["distance"], row["judge"]) for row in facts[name]]
        how = {"marker": MARKERS[k], "ls": LINES[k], "color": colour, "ms": 10 if name == LEARNED else 6}
        plane.plot(*zip(*points, strict=True), label=name, **how, zorder=3 if name == LEARNED else 2)
        if name in PICTURED:  # the setting whose digits are shown
            plane.plot(*points[chosen(facts[name])], "o", ms=17, mfc="none", mec=colour, lw=1)
    plane.set(
        xlabel="distance to the source (rms)",
        ylabel="target digit read\nby the held-out classifier",
        title="nearer to the source, and read: up and to the left; circled: shown on the left",
        ylim=(-0.03, 1.07),
    )
    plane.title.set_fontsize(9.5)
    plane.legend(fontsize=8.5, loc="upper left")
    weight = WEIGHTS[chosen(facts[LEARNED])]  # of the row that is shown
    found = schedules[weight]
    count = len(found.eta)
    window = edit.Schedule(0.9, stop=STOPS[::-1][chosen(facts[HAND])]).values(count)
    for label, values, colour, line in (
        ("eta, learned", found.eta, colours[LEARNED], "-"),
        ("gamma, learned", found.gamma, GREY, "--"),
        ("eta, by hand", window, colours[HAND], ":"),
    ):
        times.stairs(
            values.cpu(), [k / count for k in range(count + 1)], color=colour, label=label, ls=line, lw=2
        )
    # a line at nought is seen above the axis
    times.set(xlabel="share of the pass", ylim=(-0.04, 1.05), xlim=(0, 1))
    times.set_title(f"schedules of the rows shown (learned at weight {weight:g})", fontsize=9.5)
    times.legend(fontsize=8.5, loc="upper right")
    return figure


if __name__ == "__main__":
    main()
