"""Attack a digit classifier behind diffusion purification: with the exact gradient of the whole defence, and
with cheaper ones.

Two baselines: an attacker that does not know of the defence, and signs drawn at random, of the same radius.
"""

# %%
import itertools

import torch.nn.functional as F
from common import COLOURS, GREY, look, options, pyplot, write

from pullback.adjoint import Checkpoint, sample
from pullback.guidance import FixedStep, Linf, Proportion, pgd, purify, straight_through
from pullback.solvers import DDIM, Addressed, UniformT
from pullback.zoo import MNIST_HELD_OUT, denoiser, load, mnist_images

NAMES = ("exact gradient", "last 4 steps only", "Jacobian left out", "defence unknown")


def main() -> None:
    run = options(__doc__, count=10, optimiser_steps=12, sampler_steps=40, radius=0.6, noise=0.25)
    model = denoiser("mnist")
    attacked, held_out = (load(f"mnist_classifier{k}").to(run.device) for k in (0, 1))
    model.network.to(run.device)  # type: ignore[attr-defined]
    plan = DDIM().plan(model.process, UniformT(run.sampler_steps, start=run.noise))
    head, tail = plan.split(plan.steps - 4)
    images, labels = (t[MNIST_HELD_OUT].to(run.device) for t in mnist_images())
    # images that both classifiers read correctly behind the defence, so that what is counted is the attack
    fresh = Addressed(run.seed, stream=1)
    pool = images[: 2 * run.count]
    pool = purify(model, plan, pool, fresh(0, pool), gradient=None)
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
        yield lambda: x

    def misread(x, draws):
        """By either classifier behind the defence, under noise that no attacker has seen; and the last draw."""
        many = x.repeat(draws, 1, 1, 1)
        back = purify(model, plan, many, Addressed(run.seed, stream=3)(0, many), gradient=None)
        wrong = [
            float((c(back).argmax(1) != truth.repeat(draws)).double().mean()) for c in (attacked, held_out)
        ]
        return wrong, back[: len(x)]

    curves, found = {}, {}
    for index, name in enumerate(NAMES):
        slots, curve = itertools.count(), []

        def loss(x, index=index, slots=slots):
            return -F.cross_entropy(
                attacked(list(defences(x, next(slots)))[index]()), truth, reduction="none"
            )

        def judge(step, points, curve=curve):
            """At the start, at the end and four times between."""
            if step % max(1, run.optimiser_steps // 5) and step < run.optimiser_steps:
                return
            wrong, back = misread(points[0], draws=2)
            curve.append([step, *wrong])
            found[name] = (points[0], back)  # noqa: B023

        pgd(
            loss,
            clean,
            Linf(run.radius),
            steps=run.optimiser_steps,
            stepping=FixedStep(2.5 / run.optimiser_steps),
            box=(-1.0, 1.0),
            callback=judge,
        )
        curves[name] = curve
        print(
            f"{name:28s} fooled after {run.optimiser_steps} steps: attacked {curve[-1][1]:.0%}, held-out "
            f"{curve[-1][2]:.0%}"
        )
    signs = Addressed(run.seed, stream=4)(0, clean).sign()
    bare = attacked(found["defence unknown"][0]).argmax(1) != truth
    facts = {
        "count": len(chosen),
        "radius": run.radius,
        "purification_steps": run.sampler_steps,
        "success": curves,
        "random_signs": misread((clean + run.radius * signs).clamp(-1, 1), draws=2)[0],
        "without_defence": float(bare.double().mean()),
    }
    print(
        f"random signs: {facts['random_signs'][0]:.0%}; the attacker that does not know of the defence fools "
        f"{facts['without_defence']:.0%} without it"
    )
    write(run.out, "robustness", draw(clean, found, curves, truth, attacked, facts), facts)


def draw(clean, found, curves, truth, attacked, facts):
    plt = pyplot()
    from matplotlib.ticker import PercentFormatter

    show = min(6, len(clean))
    count = facts["count"]
    figure = plt.figure(figsize=(15, 4.4))
    parts = figure.add_gridspec(1, 3, width_ratios=(1, 1, 1.15), wspace=0.12)
    axes = [figure.add_subplot(parts[0])]
    axes.append(figure.add_subplot(parts[1], sharey=axes[0]))
    for which, (axis, who) in enumerate(zip(axes, ("the attacked classifier", "another one"), strict=True)):
        for k, (name, curve) in enumerate(curves.items()):
            steps = [row[0] + 0.12 * (k - 1.5) for row in curve]  # side by side: two may coincide
            values = [row[1 + which] for row in curve]
            axis.plot(steps, values, **look(k), label=name)
            low, high = Proportion(values[-1] * count, count).wilson()
            axis.plot([steps[-1]] * 2, (low, high), color=COLOURS[k], lw=1.2)
        axis.axhline(facts["random_signs"][which], color=GREY, ls=":", zorder=0, label="random signs")
        axis.set(
            xlabel="steps of the attack",
            xticks=[row[0] for row in next(iter(curves.values()))],
            ylim=(-0.02, 1.03),
            title=f"misread by {who}",
        )
    axes[0].yaxis.set_major_formatter(PercentFormatter(1.0))
    axes[0].legend(loc="upper left")
    axes[1].tick_params(labelleft=False)
    axes[1].text(
        0.03, 0.97, f"{count} digits, two draws each; bars: 95 %\n{facts['purification_steps']} steps of purification, "
        f"|change| ≤ {facts['radius']}", transform=axes[1].transAxes, va="top",
    )  # fmt: skip
    point, back = found[NAMES[0]]
    grid = parts[2].subgridspec(3, show, hspace=0.08, wspace=0.08)
    cells = [[figure.add_subplot(grid[row, k]) for k in range(show)] for row in range(3)]
    for row, (label, pictures) in enumerate(
        (("digit", clean), ("attacked\n(exact)", point), ("purified,\nread as", back))
    ):
        for k in range(show):
            cells[row][k].imshow(pictures[k, 0].cpu(), cmap="gray_r", vmin=-1, vmax=1)
            cells[row][k].set(xticks=[], yticks=[])
            cells[row][k].spines[:].set_visible(False)
        cells[row][0].set_ylabel(label, fontsize=11)
    for k, read in enumerate(attacked(back).argmax(1)[:show].tolist()):
        wrong = read != int(truth[k])
        mark, colour = ("✗", COLOURS[1]) if wrong else ("✓", COLOURS[0])
        cells[2][k].set_xlabel(f"{read} {mark}", color=colour, fontsize=11)
    return figure


if __name__ == "__main__":
    main()
