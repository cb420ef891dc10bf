"""DOODL: optimise the starting noise on its sphere, through an invertible sampler."""

import itertools
from typing import Any

from torch import Tensor

from ...adjoint import Gradient, Reversible
from ...solvers import Addressed, Model, Plan
from ...solvers.broadcast import per_sample
from ...solvers.checked import checked
from ...solvers.wanted import Limit, NonNegative, Positive, Samples
from ..loss import Loss
from .found import Result
from .optimisation import MakeOptimiser, optimise, sgd


@checked
def doodl(
    denoiser: Model,
    plan: Plan,
    loss: Loss,
    x: Samples,
    *,
    cond: Any = None,
    steps: int = 50,
    lr: Positive = 0.1,
    momentum: NonNegative = 0.9,
    clip: Limit | None = 1.0,
    jitter: NonNegative = 1e-4,
    noise: Addressed = Addressed(0, stream=1),
    gradient: Gradient = Reversible(),
    optimiser: MakeOptimiser | None = None,
    progress: bool = True,
) -> Result:
    """x <- |x_start| u / |u|,  u = x - lr grad loss(Phi(x)) + jitter xi, sample by sample.

    Args:
        plan: reversible (EDICT as published, BDIA, ReversibleHeun, ...) for `Reversible`; any for another
            `gradient`.
        lr, momentum, clip: of gradient descent; or give `optimiser`.  jitter: std of xi.  noise: source of
            xi, one slot a step.
        gradient: the strategy that differentiates the run.

    Source: Wallace et al. 2023, arXiv 2303.13703, section 4 and algorithm 1. Cost: as `optimise`; memory flat
    in the steps.
    """
    noise.check(steps, x)
    at_rest = (x.detach().flatten(1).norm(dim=1) == 0).nonzero().flatten().tolist()
    if at_rest:
        raise ValueError(
            f"doodl: got x of norm 0 for samples {at_rest}, expected noise: its norm is the sphere's radius; take "
            "torch.randn_like(x)"
        )
    radius, slots = _norm(x), itertools.count()  # a slot of `noise` for every step

    def back_to_the_sphere(value: Tensor) -> Tensor:
        moved = value + jitter * noise(next(slots), value)
        return moved * (radius / _norm(moved))

    return optimise(
        denoiser,
        plan,
        loss,
        x,
        cond=cond,
        optimiser=optimiser or sgd(lr, momentum),
        steps=steps,
        clip=clip,
        gradient=gradient,
        project=back_to_the_sphere,
        progress=progress,
    )


def _norm(x: Tensor) -> Tensor:
    return per_sample(x.detach().flatten(1).norm(dim=1), x)
