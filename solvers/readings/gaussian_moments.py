"""Push a Gaussian through a plan: exact mean, variance and noise response, no Monte Carlo.

For 1-D Gaussian data N(m, v) the denoiser is affine, so every register is an affine function of the starting
state and the noise slots. Running the ordinary loop on the coefficient vectors [constant, x, xi_0, ...] gives
them all at once.
"""

import torch
from torch import Tensor

from ..checked import checked
from ..loop import run
from ..model import Denoiser
from ..noise import GivenNoise
from ..plan import Plan
from ..prediction import DATA
from ..wanted import Finite, NonNegative


@checked
def response(plan: Plan, mean: Finite, variance: NonNegative) -> Tensor:
    """Coefficients (2 + slots,) of the sample in [1, x, xi_0, ...] for data N(mean, variance), float64.

    Raises:
        ValueError: for a plan with an Apply, whose result need not be affine.
    """
    plan.check_linear("moments")
    plan.check_numbers("moments")
    size = 2 + plan.slots

    def affine(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = plan.process.alpha(t)[:, None], plan.process.sigma(t)[:, None]
        total = alpha**2 * variance + sigma**2
        constant = torch.zeros_like(x)
        constant[:, 0] = mean
        return constant + alpha * variance / total * (x - alpha * constant)

    basis = torch.eye(size, dtype=torch.float64)
    noise = GivenNoise(basis[2:, None, :]) if plan.slots else None
    return run(Denoiser(affine, plan.process, DATA), plan, basis[None, 1], noise=noise)[0]


@checked
def moments(
    plan: Plan, mean: Finite, variance: NonNegative, start_mean: Finite, start_variance: NonNegative
) -> tuple[float, float]:
    """Mean and variance of the sample for data N(mean, variance) and start N(start_mean, start_variance)."""
    c = response(plan, mean, variance)
    return (float(c[0] + c[1] * start_mean), float(c[1] ** 2 * start_variance + (c[2:] ** 2).sum()))
