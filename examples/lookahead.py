"""How many network calls a guide must look ahead before its gradient is that of the whole rollout.

At x_t a guide may differentiate D(x_t) with the Jacobian left out (k = 0), D(x_t) itself (k = 1, DPS), or a
sample of k network calls. The truth is the gradient through every step that the plan has left. Their cosine,
against t, for a mixture whose denoiser is exact and for digits with a classifier's loss; what each k sees of a digit;
and how often it steers the sampler to the digit asked for, read by a classifier that no gradient came from.
"""

# %%
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from common import COLOURS, PALE, digits_grid, look, options, pyplot, write
from torch import Tensor

from pullback.adjoint import Checkpoint, sample
from pullback.guidance import Context, Guide, Lookahead, Proportion, steer
from pullback.solvers import DDIM, VP, Addressed, Mixture, Model, UniformT
from pullback.zoo import denoiser, load

AHEAD = (0, 1, 2, 4, 8)
TIMES = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.2)
SHOWN = 0.8
STEERED = ((0, 20), (1, 20), (2, 20), (4, 20), (1, 90))  # (k, steps), the last as dear as k = 4


@dataclass(frozen=True, eq=False)
class Probe(Guide):
    """Changes nothing; keeps x_t, and by every k the prediction and its gradient, at the steps asked for."""

    loss: Callable[[Tensor], Tensor]
    at: tuple[int, ...]
    differentiates = True

    def state(self, ctx: Context, x: Tensor) -> Tensor:
        if ctx.step in self.at:
            seen, slopes = [], []
            for k in AHEAD:
                ahead, pull = ctx.lookahead(k)
                seen.append(ahead.detach())
                slopes.append(pull(ctx.gradient(self.loss, ahead)[1]))
            ctx.memory(self)[str(ctx.step)] = (ctx.x.detach(), torch.stack(slopes), seen)
        return x


def cosines(
    model: Model, loss: Callable[[Tensor], Tensor], start: Tensor, steps: int
) -> tuple[Tensor, list[Tensor]]:
    """(times, k, B): cosine of the gradient by each k to the gradient through the rest of the plan; and x_t at
    t = SHOWN, its prediction by each k, the plan's end.
    """
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    at = tuple(round(steps * (1 - t)) for t in TIMES)
    probe = Probe(loss, at)
    kept = steer(model, DDIM().plan(model.process, times), start, probe).memory(probe)
    rows, pictures = [], []
    for t, step in zip(TIMES, at, strict=True):
        x, slopes, seen = kept[str(step)]
        x = x.requires_grad_()
        end = sample(model, DDIM().plan(model.process, times[step:]), x, gradient=Checkpoint())
        truth = torch.autograd.grad(loss(end).sum(), x)[0]
        rows.append(F.cosine_similarity(slopes.flatten(2), truth.flatten(1)[None], dim=2))
        if t == SHOWN:
            pictures = [x.detach(), *seen[1:], end.detach()]
    return torch.stack(rows), pictures


def main() -> None:
    run = options(__doc__, count=12, sampler_steps=40, steered=30)
    generator = torch.Generator().manual_seed(run.seed)
    mixture = Mixture.isotropic(torch.ones(8), 1.5 * torch.randn(8, 16, generator=generator), 0.3).to(
        run.device
    )
    goal = mixture.means[:1]
    digits = denoiser("mnist")
    digits.network.to(run.device)  # type: ignore[attr-defined]
    reader, judge = (load(f"mnist_classifier{k}").to(run.device) for k in (0, 1))
    wanted = torch.arange(run.count, device=run.device) % 10
    problems = {
        "mixture in 16 dimensions": (mixture.denoiser(VP()), lambda x: (x - goal).square().sum(1), (16,)),
        "digits, a classifier's loss": (
            digits,
            lambda x: F.cross_entropy(reader(x), wanted, reduction="none"),
            (1, 28, 28),
        ),
    }
    found, spread, pictures = {}, {}, []
    for name, (model, loss, shape) in problems.items():
        start = Addressed(run.seed).initial(torch.zeros(run.count, *shape, device=run.device))
        values, pictures = cosines(model, loss, start, run.sampler_steps)
        found[name] = values.mean(2).cpu()
        spread[name] = 1.96 * values.std(2).cpu() / values.shape[2] ** 0.5
        print(f"{name}: mean cosine over {run.count} samples\n   t  " + "".join(f"  k={k} " for k in AHEAD))
        for t, row in zip(TIMES, found[name].tolist(), strict=True):
            print(f"{t:6.2f}" + "".join(f"{value:6.2f}" for value in row))
    steered = steering(digits, reader, judge, run)
    for name, row in steered.items():
        print(f"{name}: " + ", ".join(f"{key} {value:.2f}" for key, value in row.items()))
    facts = {
        "steps": run.sampler_steps,
        "count": run.count,
        "times": TIMES,
        "k": AHEAD,
        "cosine": {name: values.tolist() for name, values in found.items()},
        "steered": steered,
    }
    write(run.out, "lookahead", draw(found, spread, pictures, steered, run), facts)


def steering(model, reader, judge, run) -> dict[str, dict[str, float]]:
    """Unconditional samples steered to a digit each: how often either classifier reads it, and the calls it took."""
    wanted = torch.arange(run.steered, device=run.device) % 10
    start = Addressed(run.seed, stream=1).initial(torch.zeros(run.steered, 1, 28, 28, device=run.device))

    def loss(x: Tensor) -> Tensor:
        return F.cross_entropy(reader(x), wanted, reduction="none")

    found = {}
    for k, steps in ((None, 20), *STEERED):
        plan = DDIM().plan(model.process, UniformT(steps))
        result = steer(model, plan, start, Guide() if k is None else Lookahead(loss, k))
        read = [float((net(result.sample).argmax(1) == wanted).double().mean()) for net in (reader, judge)]
        name = "unguided" if k is None else f"k = {k}" + (f", {steps} steps" if steps != 20 else "")
        found[name] = {"reader": read[0], "judge": read[1], "nfe": result.nfe, "vjps": result.vjps}
    return found


def draw(found, spread, pictures, steered, run):
    plt = pyplot()
    figure = plt.figure(figsize=(17, 4.2))
    sheet, *axes, bars = figure.subplots(1, 2 + len(found), width_ratios=(1.45, 1, 1, 0.8))
    axes[1].sharey(axes[0])
    digits_grid(sheet, [torch.stack(column) for column in zip(*(x[:4] for x in pictures), strict=True)])
    names = [f"$x_t$, t = {SHOWN}", *(f"k = {k}" for k in AHEAD[1:]), "rollout"]
    sheet.set(xticks=[14 + 28 * k for k in range(len(names))], xticklabels=names)
    sheet.tick_params(length=0, labelsize=11, labeltop=True, labelbottom=False)
    for row, read in enumerate(steered.values()):
        share = Proportion(read["judge"] * run.steered, run.steered)
        bars.barh(row, share.value, 0.6, color=PALE)
        bars.plot(share.wilson(), (row, row), color=COLOURS[0], lw=1.5)
    bars.set_yticks(range(len(steered)), [f"{name}\n{row['nfe']} calls" for name, row in steered.items()])
    bars.set(xlim=(0, 1), ylim=(len(steered) - 0.4, -0.6))
    bars.set_title(f"steered: read as asked for\nby another classifier ({run.steered} samples)", fontsize=12)
    for axis, (name, values) in zip(axes, found.items(), strict=True):
        for j, k in enumerate(AHEAD):
            label = {0: "k = 0, no Jacobian", 1: "k = 1, DPS"}.get(k, f"k = {k}")
            low, high = values[:, j] - spread[name][:, j], (values[:, j] + spread[name][:, j]).clamp(max=1)
            axis.fill_between(TIMES, low, high, color=COLOURS[j], alpha=0.15, lw=0)
            axis.plot(TIMES, values[:, j], **look(j), label=label)
        axis.set_title(f"{name}\n{run.count} samples, 95 % shaded", fontsize=12)
        axis.set_xlabel("t  (1 is noise)", fontsize=12)
        axis.tick_params(labelsize=11)
        axis.invert_xaxis()
        axis.axhline(1, color=PALE, zorder=0)
    axes[0].set_ylabel("cosine to the rollout's gradient", fontsize=12)
    axes[0].legend(fontsize=11, loc="lower right")
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    main()
