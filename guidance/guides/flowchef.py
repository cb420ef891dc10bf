"""FlowChef: steering without the network's Jacobian."""

from dataclasses import dataclass

from torch import Tensor

from ..loss import Loss
from .context import Context
from .guide import Guide
from .step_size import Damped, Shell, StepSize, Tweedie


@dataclass(frozen=True, eq=False)
class FlowChef(Guide):
    """x_s <- x_s - policy(grad L at D): the identity in place of dD/dx_t, an approximation.

    Args:
        policy: by default for a loss in nats, never past its minimum and within the noise of x_s; `Raw(scale)` is
            published.

    Source: Patel et al. 2024, arXiv 2412.00100, algorithm 1. Cost: no VJP.
    """

    loss: Loss
    policy: StepSize = Shell(Damped(Tweedie()))

    def state(self, ctx: Context, x: Tensor) -> Tensor:
        value, slope = ctx.gradient(self.loss, ctx.data)
        ctx.report(value)
        return x - self.policy(ctx, slope, value)
