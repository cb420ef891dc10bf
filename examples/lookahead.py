"""How many network calls a guide must look ahead before its gradient is that of the whole rollout.

At x_t a guide may differentiate D(x_t) with the Jacobian left out (k = 0), D(x_t) itself (k = 1, DPS), or a
sample of k network calls. The truth is the gradient through every step that the plan has left. Their cosine,
against t, for a mixture whose denoiser is exact and for the bundled digits with a classifier's loss.
"""

# %%
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from bundled import denoiser, load
from common import options, write
from torch import Tensor

from pullback.adjoint import Checkpoint, sample
from pullback.guidance import Context, Guide, steer
from pullback.solvers import DDIM, VP, Addressed, Mixture, Model

AHEAD = (0, 1, 2, 4, 8)
COLOURS = ("#9a9a9a", "#d1495b", "#edae49", "#3a86a8", "#1f4e79")
TIMES = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.2)


@dataclass(frozen=True, eq=False)
class Probe(Guide):
    """Changes nothing; keeps x_t and the gradients by every k at the steps asked for."""

    loss: Callable[[Tensor], Tensor]
    at: tuple[int, ...]
    differentiates = True

    def state(self, ctx: Context, x: Tensor) -> Tensor:
        if ctx.step in self.at:
            slopes = []
            for k in AHEAD:
                ahead, pull = ctx.lookahead(k)
                slopes.append(pull(ctx.gradient(self.loss, ahead)[1]))
            ctx.memory(self)[str(ctx.step)] = (ctx.x.detach(), torch.stack(slopes))
        return x


def cosines(model: Model, loss: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> Tensor:
    """(times, k, B): cosine of the gradient by each k to the gradient through the rest of the plan."""
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    at = tuple(round(steps * (1 - t)) for t in TIMES)
    probe = Probe(loss, at)
    kept = steer(model, DDIM().plan(model.process, times), start, probe).memory(probe)
    rows = []
    for step in at:
        x, slopes = kept[str(step)]
        x = x.requires_grad_()
        end = sample(model, DDIM().plan(model.process, times[step:]), x, gradient=Checkpoint())
        truth = torch.autograd.grad(loss(end).sum(), x)[0]
        rows.append(F.cosine_similarity(slopes.flatten(2), truth.flatten(1)[None], dim=2))
    return torch.stack(rows)


def main() -> None:
    run = options(__doc__, count=64, steps=40)
    generator = torch.Generator().manual_seed(run.seed)
    mixture = Mixture.isotropic(torch.ones(8), 1.5 * torch.randn(8, 16, generator=generator), 0.3).to(
        run.device
    )
    goal = mixture.means[:1]
    digits, reader = denoiser("digits"), load("classifier0").to(run.device)
    digits.network.to(run.device)  # type: ignore[attr-defined]
    wanted = torch.arange(run.count, device=run.device) % 10
    problems = {
        "mixture in 16 dimensions": (mixture.denoiser(VP()), lambda x: (x - goal).square().sum(1), (16,)),
        "digits, a classifier's loss": (
            digits,
            lambda x: F.cross_entropy(reader(x), wanted, reduction="none"),
            (1, 8, 8),
        ),
    }
    found = {}
    for name, (model, loss, shape) in problems.items():
        start = Addressed(run.seed).initial(torch.zeros(run.count, *shape, device=run.device))
        found[name] = cosines(model, loss, start, run.steps).mean(2).cpu()
        print(f"{name}: mean cosine over {run.count} samples\n   t  " + "".join(f"  k={k} " for k in AHEAD))
        for t, row in zip(TIMES, found[name].tolist(), strict=True):
            print(f"{t:6.2f}" + "".join(f"{value:6.2f}" for value in row))
    facts = {
        "steps": run.steps,
        "count": run.count,
        "times": TIMES,
        "k": AHEAD,
        "cosine": {name: values.tolist() for name, values in found.items()},
    }
    write(run.out, "lookahead", draw(found), facts)


def draw(found):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(found), figsize=(10, 4), sharey=True)
    for axis, (name, values) in zip(axes, found.items(), strict=True):
        for j, (k, colour) in enumerate(zip(AHEAD, COLOURS, strict=True)):
            label = {0: "k = 0, no Jacobian", 1: "k = 1, DPS"}.get(k, f"k = {k}")
            axis.plot(TIMES, values[:, j], "o-", color=colour, label=label, linewidth=2, markersize=4)
        axis.set_title(name, fontsize=13)
        axis.set_xlabel("t  (1 is noise)", fontsize=12)
        axis.tick_params(labelsize=11)
        axis.invert_xaxis()
        axis.axhline(1, color="#dddddd", zorder=0)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("cosine to the rollout's gradient", fontsize=12)
    axes[0].legend(frameon=False, fontsize=11, loc="lower right")
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    main()
