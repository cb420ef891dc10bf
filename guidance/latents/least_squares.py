"""LeastSquares: a loss that is a sum of squares and says of which numbers."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from torch import Tensor

from ...solvers.checked import CheckedFields
from ...solvers.kinds import described
from ...solvers.wanted import Positive, Wanted


@dataclass(frozen=True, eq=False)
class LeastSquares(CheckedFields):
    """|r(x) / std|^2 / 2, (B,): a loss whose Gauss-Newton matrix J_r^T J_r / std^2 is never indefinite.

        LeastSquares(measurement.residual, measurement.std)  # equals measurement.nats, -log p(y | x) + constant

    Args:
        residuals: r, from the sample (B, ...) to (B, ...), sample by sample.
        std: of the residuals, > 0: the noise of a measurement, a number or a 0-d tensor.

    Raises:
        ValueError: std is not one finite number > 0.
    """

    residuals: Annotated[
        Callable[[Any], Tensor],
        Wanted("a function from samples (B, ...) to residuals (B, ...); pass measurement.residual"),
    ]
    std: Positive | Annotated[Tensor, Wanted("a 0-d tensor", lambda std: std.numel() == 1)] = 1.0

    def __post_init__(self) -> None:
        std = self.std
        if not isinstance(std, Tensor):
            return
        if std.is_complex() or not 0 < float(std.detach()) < math.inf:
            raise ValueError(
                f"std: got {std.tolist()}, expected one finite number > 0, in the units of residuals"
            )
        object.__setattr__(self, "std", std.reshape(()) if std.requires_grad else float(std))

    def scaled(self, x: Any) -> Tensor:
        """r(x) / std. Raises ValueError where there is no row for each sample."""
        found = self.residuals(x)
        if not isinstance(found, Tensor) or found.ndim < 2:
            raise ValueError(
                f"residuals: got {described(found)}, expected (B, ...), a row of numbers for each sample; do not sum"
            )
        return found / self.std

    def __call__(self, x: Any) -> Tensor:
        return self.scaled(x).flatten(1).square().sum(1) / 2
