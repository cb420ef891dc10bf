"""Optimise the starting noise of the digits sampler until a classifier reads a chosen digit; another one checks it."""

# %%
import torch
import torch.nn.functional as F
from bundled import denoiser, load
from common import options, write

from pullback.adjoint import sample
from pullback.guidance import ChiPrior, adam, optimise
from pullback.solvers import Addressed, DPMSolverPP, UniformLambda


def main() -> None:
    run = options(__doc__, digit=3, count=8, steps=20)
    model = denoiser("digits")
    model.network.to(run.device)  # type: ignore[attr-defined]
    reader, judge = (load(f"classifier{k}").to(run.device) for k in (0, 1))
    plan = DPMSolverPP(2).plan(model.process, UniformLambda(20, start=1.0, end=0.03))
    start = Addressed(run.seed).initial(torch.zeros(run.count, 1, 8, 8, device=run.device))
    wanted = torch.full((run.count,), run.digit, device=run.device)
    result = optimise(
        model,
        plan,
        lambda x: F.cross_entropy(reader(x), wanted, reduction="none"),
        start,
        steps=run.steps,
        optimiser=adam(0.1),
        prior=ChiPrior(0.05),
    )
    before = sample(model, plan, start, gradient=None)
    read = [int((judge(x).argmax(1) == wanted).sum()) for x in (before, result.sample)]
    print(
        f"the held-out classifier reads {run.digit} on {read[0]} of {run.count} samples before, {read[1]} "
        f"after; {result.nfe} NFE"
    )
    facts = {
        "digit": run.digit,
        "before": read[0],
        "after": read[1],
        "count": run.count,
        "nfe": result.nfe,
        "vjps": result.vjps,
    }
    write(run.out, "digit_guidance", draw(before, result), facts)


def draw(before, result):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    count = len(before)
    figure = plt.figure(figsize=(1.1 * count, 4.2))
    grid = figure.add_gridspec(3, count, height_ratios=(1, 1, 1.3), hspace=0.15)
    for row, images in enumerate((before, result.sample)):
        for k in range(count):
            axis = figure.add_subplot(grid[row, k])
            axis.imshow(images[k, 0].cpu(), cmap="gray_r", vmin=-1, vmax=1)
            axis.set_xticks([])
            axis.set_yticks([])
            if k == 0:
                axis.set_ylabel(("before", "after")[row])
    axis = figure.add_subplot(grid[2, :])
    axis.plot(result.losses.cpu(), color="#1f4e79", alpha=0.6)
    axis.set(xlabel="optimisation step", ylabel="loss per sample")
    axis.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    main()
