"""Attack a digit classifier behind diffusion purification: with the exact gradient of the whole defence, and with cheaper ones."""

# %%
import itertools

import torch.nn.functional as F
from bundled import denoiser, load
from common import options, write
from data import digit_images
from pullback.adjoint import Checkpoint
from pullback.guidance import Linf, pgd, purify, straight_through
from pullback.solvers import DDIM, Addressed, UniformLambda

NAMES = ("exact gradient, 100 steps", "4 steps unrolled", "Jacobian left out")
COLOURS = ("#c0392b", "#1f4e79", "#7f8c8d")


def main() -> None:
    run = options(__doc__, count=16, steps=8, purification=100, radius=0.4, noise=0.25, quick=0)
    if run.quick:
        run.count, run.steps, run.purification = 4, 2, 8
    model, (attacked, held_out) = denoiser("digits"), (load(f"classifier{k}").to(run.device) for k in (0, 1))
    model.network.to(run.device)  # type: ignore[attr-defined]
    long, short = (DDIM().plan(model.process, UniformLambda(n, start=run.noise, end=0.02)) for n in (run.purification, 4))
    images, labels = (t.to(run.device) for t in digit_images())
    # images that both classifiers read correctly behind the defence, so that what is counted is the attack
    fresh = Addressed(run.seed, stream=1)
    pool = purify(model, long, images[: 3 * run.count], fresh(0, images[: 3 * run.count]), gradient=None)
    right = [k for k in range(len(pool)) if all(int(c(pool[k : k + 1]).argmax()) == int(labels[k]) for c in (attacked, held_out))]
    chosen = right[: run.count]
    clean, truth = images[chosen], labels[chosen]

    def defences(x, slot):
        """What the attacker differentiates, under noise that it draws itself."""
        start = Addressed(run.seed, stream=2)(slot, x)
        yield lambda: purify(model, long, x, start, gradient=Checkpoint())
        yield lambda: purify(model, short, x, start, gradient=Checkpoint())
        yield lambda: straight_through(x, purify(model, long, x, start, gradient=None))

    curves, found = {}, {}
    for index, name in enumerate(NAMES):
        slots, curve = itertools.count(), []

        def loss(x, index=index, slots=slots):
            return -F.cross_entropy(attacked(list(defences(x, next(slots)))[index]()), truth, reduction="none")

        def judge(step, points, curve=curve):
            """On noise that no attacker has seen."""
            back = purify(model, long, points[0], Addressed(run.seed, stream=3)(step, points[0]), gradient=None)
            curve.append([float((c(back).argmax(1) != truth).float().mean()) for c in (attacked, held_out)])
            found[name] = (points[0], back)  # noqa: B023

        pgd(loss, clean, Linf(run.radius), steps=run.steps, share=0.25, box=(-1, 1), callback=judge)
        curves[name] = curve
        print(f"{name:28s} fooled after {run.steps} steps: attacked {curve[-1][0]:.0%}, held-out {curve[-1][1]:.0%}")
    facts = {"count": len(chosen), "radius": run.radius, "purification_steps": run.purification, "success": curves}
    write(run.out, "robustness", draw(clean, found, curves, truth, attacked, run), facts)


def draw(clean, found, curves, truth, attacked, run):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    show = min(6, len(clean))
    figure = plt.figure(figsize=(12.5, 4.6))
    left, right = figure.subfigures(1, 2, width_ratios=(1.15, 1))
    axis = left.subplots()
    for (name, curve), colour in zip(curves.items(), COLOURS, strict=True):
        own, other = zip(*curve, strict=True)
        axis.plot(own, color=colour, lw=2.5, marker="o", ms=4, label=name)
        axis.plot(other, color=colour, lw=1.2, ls=":")
    axis.plot([], [], color="black", lw=1.2, ls=":", label="held-out classifier")
    axis.set(xlabel="PGD steps", ylabel="digits misread behind the defence", ylim=(-0.03, 1.03),
             title=f"{run.purification}-step purification under attack, |change| ≤ {run.radius}")
    axis.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0))
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    point, back = found[NAMES[0]]
    grid = right.subplots(3, show, squeeze=False)
    for row, (label, pictures) in enumerate((("digit", clean), ("attacked\n(exact)", point), ("purified", back))):
        for k in range(show):
            grid[row, k].imshow(pictures[k, 0].cpu(), cmap="gray_r", vmin=-1, vmax=1)
            grid[row, k].set(xticks=[], yticks=[])
        grid[row, 0].set_ylabel(label, fontsize=11)
    for k, read in enumerate(attacked(back).argmax(1)[:show].tolist()):
        wrong = read != int(truth[k])
        grid[2, k].set_xlabel(f"read {read}", color=COLOURS[0] if wrong else "black", fontsize=11)
    return figure


if __name__ == "__main__":
    main()
