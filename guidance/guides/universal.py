"""Universal guidance: forward and backward guidance with recurrence."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...solvers.wanted import Count, Whole
from ..loss import Loss
from .context import Context
from .guide import Guide
from .step_size import Damped, Raw, StepSize, Tweedie


def descended(ctx: Context, loss: Loss, policy: StepSize, steps: int) -> Tensor:
    """The shift Delta of D by `steps` steps down the loss from D; no network call."""
    shift = torch.zeros_like(ctx.data)
    for _ in range(steps):
        value, slope = ctx.gradient(loss, ctx.data + shift)
        shift = shift - policy(ctx, slope, value)
    return shift


@dataclass(frozen=True, eq=False)
class Universal(Guide):
    """eps' = eps + sigma forward(grad_{x_t} L(D)), then eps'' = eps' - (alpha/sigma) Delta, D + Delta being D
    after `steps` descents D <- D - backward(grad L).

    eps' changes D = (x_t - sigma eps)/alpha by -(sigma^2/alpha) forward(grad), eps'' by Delta; x_s moves by
    dx_s/dD (`ctx.gain`) times that.

    Args:
        forward, backward: by default for a loss in nats, never past its minimum; `Raw(scale)` is published.
        travels: how often each step is taken, the state noised back in between (the paper's recurrence).

    Source: Bansal et al. 2023, arXiv 2302.07121, algorithm 1. Cost: `travels` network calls and VJPs a step;
    needs draws where it travels.
    """

    loss: Loss
    forward: StepSize = Damped(Raw())
    backward: StepSize = Damped(Tweedie())
    steps: Whole = 1
    travels: Count = 1
    differentiates = True

    def repeats(self, step: int, steps: int) -> int:
        return self.travels

    def state(self, ctx: Context, x: Tensor) -> Tensor:
        value, slope = ctx.gradient(self.loss, ctx.data)
        ctx.report(value)
        x = x - ctx.gain * ctx.tweedie * self.forward(ctx, ctx.vjp(slope), value, slope)
        return x + ctx.gain * descended(ctx, self.loss, self.backward, self.steps)
