"""ReNO: optimise the starting noise of a few-step sampler."""

from typing import Any

from torch import Tensor

from ...adjoint import Auto, Gradient
from ...solvers import Model, Noise, Plan
from ...solvers.checked import checked
from ...solvers.wanted import Limit, NonNegative, Positive
from ..loss import Loss
from .found import Result
from .optimisation import optimise, sgd
from .priors import ChiPrior, Prior


@checked
def reno(
    denoiser: Model,
    plan: Plan,
    loss: Loss,
    x: Tensor,
    *,
    cond: Any = None,
    noise: Noise | Tensor | None = None,
    steps: int = 50,
    lr: Positive = 5.0,
    momentum: NonNegative = 0.9,
    clip: Limit | None = 0.1,
    prior: Prior | None = ChiPrior(0.01),
    gradient: Gradient = Auto(),
    progress: bool = True,
) -> Result:
    """min_x loss(Phi(x)) + prior(x) by SGD with Nesterov momentum; the best of all iterates is returned.

    Args:
        plan: of one or a few steps, for a distilled model.
        clip: greatest gradient norm of a sample; lr clip is the greatest length of a step without momentum.
        gradient: the strategy that differentiates the run.

    Source: Eyring et al. 2024, arXiv 2406.04312, section 3 and appendix (lr 5, clip 0.1, 50 iterations,
    weight 0.01). Cost: as `optimise`.
    """
    return optimise(
        denoiser,
        plan,
        loss,
        x,
        cond=cond,
        noise=noise,
        steps=steps,
        prior=prior,
        clip=clip,
        gradient=gradient,
        optimiser=sgd(lr, momentum, nesterov=momentum > 0),
        progress=progress,
    )
