"""Priors: the law of the state at a plan's noisy end."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ...solvers.broadcast import per_sample
from ...solvers.checked import CheckedFields
from ...solvers.packing import State, packing_of
from ...solvers.plan import Plan
from ...solvers.process import as_time
from ...solvers.wanted import Finite, NonNegative

Prior = Callable[[State, Tensor, Tensor], Tensor]  # (x_T (B, ...), alpha_T, sigma_T) -> log density (B,)


@dataclass(frozen=True)
class GaussianPrior(CheckedFields):
    """x_T ~ N(alpha_T mean, alpha_T^2 variance + sigma_T^2), every entry by itself: what data of these moments become.

    With mean = variance = 0 it is N(0, sigma_T^2), from which samplers start. Exact at alpha_T = 0 whatever they are.

    Args:
        mean, variance: of one entry of the data.
    """

    mean: Finite = 0.0
    variance: NonNegative = 0.0

    def __call__(self, x: State, alpha: Tensor, sigma: Tensor) -> Tensor:
        flat = packing_of(x).pack(x).flatten(1)
        alpha, sigma = (per_sample(level.to(flat), flat) for level in (alpha, sigma))
        variance = alpha**2 * self.variance + sigma**2
        square = (flat - alpha * self.mean).square() / variance
        return -0.5 * (square + variance.log() + math.log(2 * math.pi)).sum(1)


def levels(plan: Plan, node: int) -> tuple[Tensor, Tensor]:
    """(alpha, sigma) at a node of the plan's grid, () or (B,), float64."""
    t = as_time(plan.times[node])
    return plan.process.alpha(t), plan.process.sigma(t)
