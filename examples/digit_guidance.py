"""Turn one sample into every digit: optimise the noise that it came from until a classifier reads the digit asked for.

The model draws without a label; only the classifier's gradient, through all steps of the sampler, knows what is
wanted. Another classifier, of another architecture, checks. The baseline spends as many network calls on fresh draws
and keeps the best by the same loss: a digit is as easily found so, but farther from the sample it should come from.
"""

# %%
from typing import Any

import torch
import torch.nn.functional as F
from common import digits_grid, options, pyplot, write
from torch import Tensor

from pullback.adjoint import sample
from pullback.guidance import ChiPrior, adam, optimise
from pullback.solvers import Addressed, DPMSolverPP, UniformT
from pullback.zoo import denoiser, load

KEEP = 2.0  # nats per squared rms distance to the sample that the noise gave before


def main() -> None:
    run = options(__doc__, count=3, optimiser_steps=25, sampler_steps=12)
    model = denoiser("mnist")
    model.network.to(run.device)  # type: ignore[attr-defined]
    reader, judge = (load(f"mnist_classifier{k}").to(run.device) for k in (0, 1))
    plan = DPMSolverPP(2).plan(model.process, UniformT(run.sampler_steps))
    starts = Addressed(run.seed).initial(torch.zeros(run.count, 1, 28, 28, device=run.device))
    before = sample(model, plan, starts, gradient=None)
    # every start ten times, once for each digit
    start, source = starts.repeat_interleave(10, 0), before.repeat_interleave(10, 0)
    wanted = torch.arange(10, device=run.device).repeat(run.count)

    def loss(x: Tensor) -> Tensor:
        return crossed(reader, x, wanted) + KEEP * distance(x, source).square()

    result = optimise(
        model, plan, loss, start, steps=run.optimiser_steps, optimiser=adam(0.1), prior=ChiPrior(0.05)
    )
    draws = (result.nfe + result.vjps) // plan.nfe
    found = {
        "before": source,
        "optimised": result.sample,
        "best of as many draws": searched(model, plan, loss, source, draws, run.seed),
    }
    facts: dict[str, Any] = {"count": len(start), "nfe": result.nfe, "vjps": result.vjps, "draws": draws}
    for name, x in found.items():
        facts[name] = {
            "read_by_attacked": float((reader(x).argmax(1) == wanted).double().mean()),
            "read_by_held_out": float((judge(x).argmax(1) == wanted).double().mean()),
            "distance": float(distance(x, source).mean()),
        }
        print(f"{name:24}" + "  ".join(f"{key} {value:.2f}" for key, value in facts[name].items()))
    write(run.out, "digit_guidance", draw(before, found, facts), facts)


def crossed(reader, x: Tensor, wanted: Tensor) -> Tensor:
    """(B,): cross-entropy, the mean over x and its shifts by two pixels; what only one place makes is no digit."""
    shifts = ((0, 0), (0, 2), (0, -2), (2, 0), (-2, 0))
    moved = torch.cat([x.roll(shift, (2, 3)) for shift in shifts])
    losses = F.cross_entropy(reader(moved), wanted.repeat(len(shifts)), reduction="none")
    return losses.reshape(len(shifts), -1).mean(0)


def distance(x: Tensor, y: Tensor) -> Tensor:
    """(B,), rms."""
    return (x - y).square().flatten(1).mean(1).sqrt()


def searched(model, plan, loss, source, draws, seed) -> Tensor:
    """For each sample the best by `loss` of `draws` fresh ones; those of one start serve all its ten digits."""
    best, least = source.clone(), torch.full((len(source),), torch.inf, device=source.device)
    for k in range(draws):
        noise = Addressed(seed, stream=1 + k).initial(source[::10])
        fresh = sample(model, plan, noise, gradient=None).repeat_interleave(10, 0)
        value = loss(fresh)
        best = torch.where((value < least)[:, None, None, None], fresh, best)
        least = torch.minimum(value, least)
    return best


def draw(before, found, facts):
    plt = pyplot()
    count = len(before)
    figure, axes = plt.subplots(
        1, 3, figsize=(14, 0.62 * count + 1.2), gridspec_kw={"width_ratios": (1, 10, 10), "wspace": 0.06}
    )
    digits_grid(axes[0], [image[None] for image in before])
    axes[0].set_title("before", fontsize=13)
    for axis, name in zip(axes[1:], ("optimised", "best of as many draws"), strict=True):
        digits_grid(axis, list(found[name].split(10)))
        axis.set(xticks=[14 + 28 * k for k in range(10)], xticklabels=range(10))
        axis.tick_params(length=0, labelsize=12)
        row = facts[name]
        axis.set_title(
            f"{name}: held-out classifier reads {row['read_by_held_out']:.0%}, "
            f"distance {row['distance']:.2f}",
            fontsize=11,
        )
    return figure


if __name__ == "__main__":
    main()
