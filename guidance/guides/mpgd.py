"""Manifold preserving guided diffusion."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ..loss import Loss
from .context import Context
from .guide import Guide
from .step_size import Damped, StepSize, Tweedie


@dataclass(frozen=True, eq=False)
class MPGD(Guide):
    """D <- project(D - policy(grad L at D)) with the predicted noise held: x_s <- x_s + alpha_s (D' - D).

    The network's Jacobian is left out, an approximation.

    Args:
        policy: by default for a loss in nats, never past its minimum; `Raw(scale)` is published.
        project: onto where samples live; encode(decode(.)) in the latent form. None: all of space.

    Source: He et al. 2024, arXiv 2311.16424, algorithm 2. Cost: no VJP.
    """

    loss: Loss
    policy: StepSize = Damped(Tweedie())
    project: Callable[[Tensor], Tensor] | None = None

    def state(self, ctx: Context, x: Tensor) -> Tensor:
        value, slope = ctx.gradient(self.loss, ctx.data)
        ctx.report(value)
        change = -self.policy(ctx, slope, value)
        if self.project is not None:
            change = self.project(ctx.data + change) - ctx.data
        return x + ctx.next_alpha * change
