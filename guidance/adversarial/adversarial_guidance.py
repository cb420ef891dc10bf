"""AdvDiff: adversarial samples by guidance towards a target near the end, and by moving the starting noise."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...adjoint import Gradient, Input, sample
from ...adjoint.arguments import check_serves
from ...solvers import Model, Noise, Plan
from ...solvers.broadcast import per_sample
from ...solvers.notebook import Shown
from ..guides.context import Context
from ..guides.guide import Guide
from ..guides.steering import steer
from ..loss import Loss
from .verdict import succeeded


@dataclass(frozen=True, eq=False)
class TowardsTarget(Guide):
    """x <- x + scale grad log_prob(x) after each step from step `first` on; remembers what it added, by step."""

    log_prob: Loss
    scale: float
    first: int

    def state(self, ctx: Context, x: Tensor) -> Tensor:
        if ctx.step < self.first:
            return x
        added = self.scale * ctx.gradient(self.log_prob, x)[1]
        ctx.memory(self)[str(ctx.step)] = added
        return x + added


@dataclass(frozen=True, repr=False)
class Adversarial(Shown):
    """What `advdiff` found.

    Attributes:
        sample: (B, ...); x: (B, ...) the noise it started from. success: (B,), and rounds: (B,) how many it took.
        nfe, vjps: of all rounds.
    """

    sample: Tensor
    x: Tensor
    success: Tensor
    rounds: Tensor
    nfe: int
    vjps: int


def advdiff(
    denoiser: Model,
    plan: Plan,
    log_prob: Loss,
    x: Tensor,
    success: Callable[[Tensor], Tensor],
    *,
    cond: Any = None,
    noise: Noise | Tensor | None = None,
    scale: float = 0.75,
    noise_scale: float = 0.5,
    rounds: int = 10,
    last: float = 0.2,
    gradient: Gradient | None = None,
) -> Adversarial:
    """Repeat until success(sample) (B,), at most `rounds` times:

        sample from x, adding scale grad log_prob(x_k) to the state after each of the last `last` N steps
        x <- x + noise_scale g
        g = grad log_prob at the sample (published: the Jacobian of the sampler left out), or with a
            `gradient` strategy J^T grad log_prob, J = d sample/dx with the additions held constant

    Args:
        log_prob: (B, ...) to (B,) the attacked classifier's log p(target | .), on states as on samples.
        gradient: the strategy that differentiates the run; None: the published first-order update.

    A sample that has succeeded is kept; its mates go on. One whose log_prob or gradient is not finite keeps its
    noise, with a warning. The published form multiplies both scales by
    variances of the schedule: put them into scale and noise_scale. Source: Dai et al. 2024, arXiv 2307.12499,
    algorithm 1. Cost: a round plan.nfe network calls, with `gradient` the strategy's calls and VJPs more.
    """
    if rounds < 1 or not 0 <= last <= 1:
        raise ValueError(
            f"advdiff: got rounds={rounds}, last={last}, expected rounds >= 1 and 0 <= last <= 1"
        )
    check_serves(gradient, plan, wanted=[Input.X])
    x, found, taken = x.detach().clone(), None, torch.zeros(len(x), dtype=torch.long, device=x.device)
    done = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    guide = TowardsTarget(log_prob, scale, plan.steps - round(last * plan.steps))
    calls = vjps = 0

    def through_sampler(point: Tensor, added: list[Tensor], gradient: Gradient) -> Tensor:
        """The sample once more, from a start that a gradient is asked for, with the guide's additions held."""
        # what was added after step k is the control at the start of step k + 1; the last is added to the sample
        controls = torch.stack([torch.zeros_like(point), *added[:-1]])
        out = sample(
            denoiser, plan, point, cond=cond, noise=noise, controls=controls.detach(), gradient=gradient
        )
        return out + added[-1]

    for turn in range(rounds):
        run = steer(denoiser, plan, x, guide, cond=cond, noise=noise)
        calls += run.nfe
        found = run.sample if found is None else torch.where(per_sample(done, x), found, run.sample)
        taken = torch.where(done, taken, turn + 1)
        done = done | succeeded(success, found)
        if bool(done.all()) or turn + 1 == rounds:
            break
        point = (found if gradient is None else x).detach().requires_grad_()
        if gradient is None:
            value = log_prob(point)
        else:
            added = [run.memory(guide).get(str(k), torch.zeros_like(x)) for k in range(plan.steps)]
            value = log_prob(through_sampler(point, added, gradient))
            calls, vjps = (n + more for n, more in zip((calls, vjps), gradient.cost(plan), strict=True))
        (move,) = torch.autograd.grad(value.sum(), point)
        lost = ~(done | value.detach().isfinite() & move.flatten(1).isfinite().all(1))
        x = torch.where(per_sample(done | lost, x), x, x + noise_scale * move)
        if bool(lost.any()):
            places = lost.nonzero().flatten().tolist()
            warnings.warn(
                f"advdiff: got a log_prob or a gradient that is not finite for samples {places} in round {turn}, "
                "expected finite ones; their starting noise stays, their mates went on",
                stacklevel=2,
            )
    assert found is not None
    return Adversarial(found, x, done, taken, calls, vjps)
