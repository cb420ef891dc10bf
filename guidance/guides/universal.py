"""Universal guidance: forward and backward guidance with recurrence."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..loss import Loss
from .context import Context
from .guide import Guide
from .step_size import Raw, StepSize


def descended(ctx: Context, loss: Loss, policy: StepSize, steps: int) -> Tensor:
    """The shift of D after `steps` descents of the loss from D, the network held constant."""
    shift = torch.zeros_like(ctx.data)
    for _ in range(steps):
        value, slope = ctx.gradient(loss, ctx.data + shift)
        shift = shift - policy(ctx, slope, value)
    return shift


@dataclass(frozen=True, eq=False)
class Universal(Guide):
    """Forward: eps' = eps + scale sigma grad_{x_t} L(D). Backward: eps'' = eps' - (alpha/sigma) Delta, Delta
    from `steps` descents of L from D with the network held. Each step `travels` times.

    A change of eps moves D = (x - sigma eps)/alpha too, so x_s moves by dx_s/dD (`ctx.gain`) times the change
    of D. Source: Bansal et al. 2023, arXiv 2302.07121, algorithm 1. Cost: `travels` calls and VJPs a step.
    """

    loss: Loss
    forward: StepSize = Raw()
    backward: StepSize = Raw()
    steps: int = 1
    travels: int = 1
    differentiates = True

    def repeats(self, step: int, steps: int) -> int:
        return self.travels

    def state(self, ctx: Context, x: Tensor) -> Tensor:
        value, slope = ctx.gradient(self.loss, ctx.data)
        ctx.report(value)
        x = x - ctx.gain * ctx.tweedie * self.forward(ctx, ctx.vjp(slope), value)
        return x + ctx.gain * descended(ctx, self.loss, self.backward, self.steps)
