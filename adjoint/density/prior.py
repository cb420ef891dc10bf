"""Priors: the law of the state at a plan's noisy end."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from ...solvers.broadcast import per_sample
from ...solvers.checked import CheckedFields
from ...solvers.kinds import described
from ...solvers.packing import State, packing_of
from ...solvers.plan import Plan
from ...solvers.process import as_time
from ...solvers.wanted import Finite, NonNegative, Wanted

# (x_T (B, ...), alpha_T, sigma_T) -> log density (B,)
LogPrior = Annotated[
    Callable[..., Any], Wanted("a function of (x, alpha, sigma) that returns (B,) nats; pass GaussianPrior()")
]


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


def log_of_prior(prior: LogPrior, x: State, plan: Plan, node: int) -> Tensor:
    """The prior's log density of x (B, ...) at a node, (B,). Raises ValueError where it returns something else."""
    found, batch = prior(x, *levels(plan, node)), len(tree_leaves(x)[0])
    if not isinstance(found, Tensor) or found.shape != (batch,):
        raise ValueError(
            f"prior: got {described(found)} from it, expected log densities ({batch},), one for each sample; sum over "
            "the axes of a state"
        )
    return found


def levels(plan: Plan, node: int) -> tuple[Tensor, Tensor]:
    """(alpha, sigma) at a node of the plan's grid, () or (B,), float64."""
    t = as_time(plan.times[node])
    return plan.process.alpha(t), plan.process.sigma(t)
