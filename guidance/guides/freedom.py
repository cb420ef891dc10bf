"""FreeDoM: energy guidance with time travel."""

from dataclasses import dataclass

from torch import Tensor

from ..loss import Loss
from .context import Context
from .guide import Guide
from .step_size import ScoreRatio, StepSize


@dataclass(frozen=True, eq=False)
class FreeDoM(Guide):
    """x_s <- x_s - policy(grad_{x_t} L(D(x_t))), each step taken `travels` times with the state noised back in between.

    Args:
        start, stop: the part of the steps that travels; the paper does so in the middle of the run only.
            `during` limits the guidance itself.

    Source: Yu et al. 2023, arXiv 2303.09833, algorithm 2. Cost: `travels` network calls and VJPs a step;
    needs draws where it travels.
    """

    loss: Loss
    policy: StepSize = ScoreRatio()
    travels: int = 1
    start: float = 0.0
    stop: float = 1.0
    differentiates = True

    def __post_init__(self) -> None:
        if self.travels < 1 or not 0 <= self.start < self.stop <= 1:
            raise ValueError(
                f"FreeDoM: got travels={self.travels} in {self.start} to {self.stop}, expected travels >= 1 "
                "and 0 <= start < stop <= 1"
            )

    def repeats(self, step: int, steps: int) -> int:
        return self.travels if self.start <= step / steps < self.stop else 1

    def state(self, ctx: Context, x: Tensor) -> Tensor:
        value, slope = ctx.gradient(self.loss, ctx.data)
        ctx.report(value)
        return x - self.policy(ctx, ctx.vjp(slope), value, slope)
