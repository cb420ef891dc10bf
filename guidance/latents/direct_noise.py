"""DNO: optimise the starting noise and every noise that a stochastic sampler injects."""

from typing import Any

import torch
from torch import Tensor

from ...adjoint import Auto, Gradient
from ...solvers import Model, Noise, Plan
from ...solvers.checked import checked
from ...solvers.wanted import Limit, Positive
from ..loss import Loss
from .concentration import Concentration
from .found import Result
from .optimisation import optimise
from .priors import Prior, Priors
from .variables import Over


@checked
def dno(
    denoiser: Model,
    plan: Plan,
    loss: Loss,
    x: Tensor,
    noise: Noise | Tensor,
    *,
    cond: Any = None,
    steps: int = 50,
    lr: Positive = 0.05,
    clip: Limit | None = 1.0,
    prior: Prior | None = Concentration(),
    gradient: Gradient = Auto(),
    progress: bool = True,
) -> Result:
    """min over x and xi_0 .. xi_{S-1} of loss(Phi(x, xi)) + prior(x) + prior(xi), by AdamW.

    Args:
        plan: stochastic: DDIM(1.0), DDPM(), ...
        x, noise: where the optimisation starts.
        lr: the most that a number moves in a step. Published 1e-3 to 1e-2, over hundreds of steps: in 50 of them
            those do not arrive (`benchmarks/latents.py`).  clip: greatest gradient norm of a sample.
        prior: keeps the noise typical; applied to x, and to all injected noises of a sample taken together.
        gradient: the strategy that differentiates the run.

    For a reward without a gradient pass `BlackBox(reward, draws)` as the loss: the paper's hybrid gradient.

    Source: Tang et al. 2024, arXiv 2405.18881, section 3 (regulariser) and 4 (hybrid gradient). Cost: as
    `optimise`.
    """
    return optimise(
        denoiser,
        plan,
        loss,
        x,
        cond=cond,
        noise=noise,
        over=Over(noise=True),
        steps=steps,
        clip=clip,
        optimiser=lambda variables: torch.optim.AdamW(variables, lr=lr),
        prior=Priors(x=prior, noise=prior),
        gradient=gradient,
        progress=progress,
    )
