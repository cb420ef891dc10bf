"""D-Flow: optimise the starting noise of a flow with L-BFGS."""

from typing import Any

import torch
from torch import Tensor

from ...adjoint import Auto, Gradient, sample
from ...solvers import Model, Plan
from ...solvers.checked import checked
from ..loss import Loss
from .found import Result
from .optimisation import optimise
from .priors import ChiPrior, Prior
from .sample_lbfgs import lbfgs
from .variables import Over


@checked
def d_flow(
    denoiser: Model,
    plan: Plan,
    loss: Loss,
    x: Tensor,
    *,
    cond: Any = None,
    steps: int = 20,
    prior: Prior | None = ChiPrior(0.01),
    gradient: Gradient = Auto(),
    progress: bool = True,
) -> Result:
    """min_z loss(Phi(z)) + prior(z), z the state at the plan's first time, by L-BFGS with strong Wolfe line search.

    With Gaussian data, loss -log p(y | x_0) and prior NormPrior() the exact flow gives exactly the posterior
    mean.

    Args:
        plan: deterministic.  x: where z starts; see `blended_start`.  steps: directions, of one to a few
            evaluations each.
        prior: on z, in the loss's units; ChiPrior is the paper's -log p(|z|), NormPrior() is -log N(z; 0, I).
        gradient: the strategy that differentiates the run.

    Source: Ben-Hamu et al. 2024, arXiv 2402.14017, section 3 (R = -log chi density in section 3.4). Cost: per
    evaluation plan.nfe calls and VJPs and the strategy's replays; memory the strategy's.
    """
    return optimise(
        denoiser,
        plan,
        loss,
        x,
        cond=cond,
        over=Over(),
        optimiser=lbfgs(),
        steps=steps,
        prior=prior,
        gradient=gradient,
        progress=progress,
    )


def blended_start(
    denoiser: Model, rising: Plan, y: Tensor, noise: Tensor, *, cond: Any = None, share: float = 0.1
) -> Tensor:
    """sqrt(share) Phi^-1(y) + sqrt(1 - share) noise: a start that knows the degraded image y (B, ...) and is
    still typical.

    Args:
        rising: the plan on the flipped grid, from data to noise.  noise: like y, standard normal.  share:
            between 0 and 1.

    Source: Ben-Hamu et al. 2024, arXiv 2402.14017, section 4 (share 0.1 for linear inverse problems). Cost:
    rising.nfe calls.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share: got {share}, expected 0 <= share <= 1")
    if y.shape != noise.shape:
        raise ValueError(f"noise: got shape {tuple(noise.shape)}, expected y's {tuple(y.shape)}")
    if rising.stochastic:
        raise ValueError(
            f"rising: got {rising.name}, which draws noise, expected a deterministic plan; take DDIM()"
        )
    inverted = sample(denoiser, rising, y, cond=cond, gradient=None)
    return torch.add(share**0.5 * inverted, noise, alpha=(1 - share) ** 0.5)
