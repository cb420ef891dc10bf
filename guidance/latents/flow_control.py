"""FlowGrad and OC-Flow: optimise controls that push the state before every step."""

from typing import Any

from torch import Tensor

from ...adjoint import Auto, Gradient
from ...solvers import Model, Plan
from ...solvers.checked import checked
from ...solvers.wanted import NonNegative, Positive
from ..loss import Loss
from .found import Result
from .optimisation import MakeOptimiser, adam, optimise, sgd
from .priors import NormPrior, Priors
from .sample_lbfgs import lbfgs
from .variables import Over


@checked
def flow_grad(
    denoiser: Model,
    plan: Plan,
    loss: Loss,
    x: Tensor,
    *,
    cond: Any = None,
    controls: Tensor | None = None,
    steps: int = 20,
    optimiser: MakeOptimiser = adam(0.05),
    gradient: Gradient = Auto(),
    progress: bool = True,
) -> Result:
    """min over u of loss(x_N),  x_{k+1} = step_k(x_k + u_k).

    For Euler steps of length h the gradient at u_k is the costate lambda_k,

        lambda_N = grad loss(x_N),   lambda_k = (I + h J_k)^T lambda_{k+1},   J_k the Jacobian of the velocity.

    Args:
        controls: (N, B, ...) to start from, default 0.
        gradient: the strategy that differentiates the run; `SkipStraight()` for the paper's skipping of straight
            stretches, exact ones take every step.

    Source: Liu et al. 2023 (FlowGrad), CVPR 2023, section 3. Cost: as `optimise`.
    """
    return optimise(
        denoiser,
        plan,
        loss,
        x,
        cond=cond,
        controls=controls,
        over=Over(x=False, controls=True),
        steps=steps,
        optimiser=optimiser,
        gradient=gradient,
        progress=progress,
    )


@checked
def oc_flow(
    denoiser: Model,
    plan: Plan,
    loss: Loss,
    x: Tensor,
    *,
    cond: Any = None,
    controls: Tensor | None = None,
    steps: int = 50,
    lr: Positive | None = None,
    cost: NonNegative = 1.0,
    gradient: Gradient = Auto(),
    progress: bool = True,
) -> Result:
    """min over u of loss(x_N) + cost/2 sum_k |u_k|^2 by u <- beta u - lr lambda, beta = 1 - lr cost (extended MSA).

    lambda as in `flow_grad`: it is gradient descent on both terms, which converges for lr < 2/(cost + the loss's
    curvature in u) alone. That curvature is seldom known and differs from sample to sample by orders of magnitude: by
    default the same objective is descended with a line search for every sample, `lbfgs()`. On linear dynamics with a
    quadratic loss the limit of both is the linear-quadratic regulator.

    Args:
        controls: (N, B, ...) to start from, default 0.
        lr: the paper's eta, for its own fixed steps. Default: `lbfgs()`.
        cost: weight of the running cost.
        gradient: the strategy that differentiates the run.

    Source: Wang et al. 2024 (OC-Flow), arXiv 2410.18070, algorithm 1. Cost: as `optimise`.
    """
    if lr is not None and (lr <= 0 or cost and not 0 < lr * cost < 1):
        raise ValueError(
            f"oc_flow: got lr={lr}, cost={cost}: beta={1 - lr * cost:.3g}, expected 0 < beta < 1; lower lr"
        )
    return optimise(
        denoiser,
        plan,
        loss,
        x,
        cond=cond,
        controls=controls,
        over=Over(x=False, controls=True),
        steps=steps,
        optimiser=lbfgs() if lr is None else sgd(lr),
        prior=Priors(controls=NormPrior(cost)),
        gradient=gradient,
        progress=progress,
    )
