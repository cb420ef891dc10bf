"""Attack a digit classifier behind diffusion purification: with the exact gradient of the whole defence, and
with cheaper ones.
"""

# %%
import itertools

import torch.nn.functional as F
from bundled import denoiser, load
from common import options, write
from data import digit_images

from pullback.adjoint import Checkpoint, sample
from pullback.guidance import FixedStep, Linf, pgd, purify, straight_through
from pullback.solvers import DDIM, Addressed, UniformLambda

NAMES = ("exact gradient", "last 4 steps only", "Jacobian left out")
COLOURS = ("#c0392b", "#1f4e79", "#7f8c8d")


def main() -> None:
    run = options(__doc__, count=12, steps=6, purification=100, radius=0.3, noise=0.2, quick=0)
    if run.quick:
        run.count, run.steps, run.purification = 4, 2, 8
    model, (attacked, held_out) = denoiser("digits"), (load(f"classifier{k}").to(run.device) for k in (0, 1))
    model.network.to(run.device)  # type: ignore[attr-defined]
    plan = DDIM().plan(model.process, UniformLambda(run.purification, start=run.noise, end=0.02))
    head, tail = plan.split(plan.steps - 4)
    images, labels = (t.to(run.device) for t in digit_images())
    # images that both classifiers read correctly behind the defence, so that what is counted is the attack
    fresh = Addressed(run.seed, stream=1)
    pool = purify(model, plan, images[: 3 * run.count], fresh(0, images[: 3 * run.count]), gradient=None)
    right = [
        k
        for k in range(len(pool))
        if all(int(c(pool[k : k + 1]).argmax()) == int(labels[k]) for c in (attacked, held_out))
    ]
    chosen = right[: run.count]
    clean, truth = images[chosen], labels[chosen]

    def defences(x, slot):
        """What the attacker differentiates, under noise that it draws itself."""
        start = Addressed(run.seed, stream=2)(slot, x)
        yield lambda: purify(model, plan, x, start, gradient=Checkpoint())
        yield lambda: sample(
            model,
            tail,
            straight_through(x, purify(model, head, x, start, gradient=None)),
            gradient=Checkpoint(),
        )
        yield lambda: straight_through(x, purify(model, plan, x, start, gradient=None))

    curves, found = {}, {}
    for index, name in enumerate(NAMES):
        slots, curve = itertools.count(), []

        def loss(x, index=index, slots=slots):
            return -F.cross_entropy(
                attacked(list(defences(x, next(slots)))[index]()), truth, reduction="none"
            )

        def judge(step, points, curve=curve):
            """Every other step, on three draws of noise that no attacker has seen."""
            if step % 2 and step < run.steps:
                return
            thrice = points[0].repeat(3, 1, 1, 1)
            back = purify(model, plan, thrice, Addressed(run.seed, stream=3)(0, thrice), gradient=None)
            curve.append(
                [
                    step,
                    *(
                        float((c(back).argmax(1) != truth.repeat(3)).float().mean())
                        for c in (attacked, held_out)
                    ),
                ]
            )
            found[name] = (points[0], back[: len(clean)])  # noqa: B023

        pgd(
            loss,
            clean,
            Linf(run.radius),
            steps=run.steps,
            stepping=FixedStep(0.34),
            box=(-1.0, 1.0),
            callback=judge,
        )
        curves[name] = curve
        print(
            f"{name:28s} fooled after {run.steps} steps: attacked {curve[-1][1]:.0%}, held-out "
            f"{curve[-1][2]:.0%}"
        )
    facts = {
        "count": len(chosen),
        "radius": run.radius,
        "purification_steps": run.purification,
        "success": curves,
    }
    write(run.out, "robustness", draw(clean, found, curves, truth, attacked, run), facts)


def draw(clean, found, curves, truth, attacked, run):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import PercentFormatter

    show = min(6, len(clean))
    figure = plt.figure(figsize=(12.5, 4.2))
    halves = figure.add_gridspec(1, 2, width_ratios=(1.1, 1), wspace=0.15)
    axis = figure.add_subplot(halves[0])
    top = max(max(row[1:]) for curve in curves.values() for row in curve)
    for (name, curve), colour, style in zip(
        curves.items(), COLOURS, ("-", "-", "--"), strict=True
    ):  # two may coincide
        steps, own, other = zip(*curve, strict=True)
        axis.plot(steps, own, style, color=colour, lw=2.5, marker="o", ms=5, label=name)
        axis.plot(steps, other, color=colour, lw=1.2, ls=":")
    axis.plot([], [], color="black", lw=1.2, ls=":", label="held-out classifier")
    axis.set(
        xlabel="PGD steps",
        ylabel="digits misread behind the defence",
        ylim=(-0.02, min(1.03, 0.1 + 1.4 * top)),
        title=f"{run.purification}-step purification under attack, |change| ≤ {run.radius}",
    )
    axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    axis.legend(frameon=False, loc="upper left")
    axis.spines[["top", "right"]].set_visible(False)
    point, back = found[NAMES[0]]
    grid = halves[1].subgridspec(3, show, hspace=0.08, wspace=0.08)
    cells = [[figure.add_subplot(grid[row, k]) for k in range(show)] for row in range(3)]
    for row, (label, pictures) in enumerate(
        (("digit", clean), ("attacked\n(exact)", point), ("purified", back))
    ):
        for k in range(show):
            cells[row][k].imshow(pictures[k, 0].cpu(), cmap="gray_r", vmin=-1, vmax=1)
            cells[row][k].set(xticks=[], yticks=[])
        cells[row][0].set_ylabel(label, fontsize=11)
    for k, read in enumerate(attacked(back).argmax(1)[:show].tolist()):
        wrong = read != int(truth[k])
        cells[2][k].set_xlabel(f"read {read}", color=COLOURS[0] if wrong else "black", fontsize=11)
    return figure


if __name__ == "__main__":
    main()
