"""Loss-guided diffusion: a loss smoothed by Monte Carlo."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...solvers.wanted import NonNegative, Whole
from ..loss import Loss, check_loss
from .context import Context
from .guide import Guide
from .step_size import Bayes, Damped, StepSize


def smoothed(ctx: Context, loss: Loss, samples: int, spread: Tensor) -> Loss:
    """x -> -log mean_j exp(-loss(x + spread d_j)), the d_j drawn once and standard normal; samples = 0: the
    loss itself.
    """
    if not samples:
        return loss
    shifts = [spread * ctx.draw() for _ in range(samples)]

    def soft(x: Tensor) -> Tensor:
        values = [loss(x + shift) for shift in shifts]
        for value in values:
            check_loss(value, len(x))
        return math.log(samples) - (-torch.stack(values)).logsumexp(0)

    return soft


@dataclass(frozen=True, eq=False)
class LGD(Guide):
    """x_s <- x_s - policy(grad_{x_t} -log mean_j exp(-L(D + width r_t d_j))), r_t = sigma/sqrt(alpha^2 + sigma^2).

    A loss of the cloud of x_0 that x_t may come from, where DPS takes its centre D for certain. L is in nats,
    and the default policy gives it the weight of Bayes' rule, kept from overshooting; `Bayes()` is the weight alone,
    which diverges where the noise of y is small.

    Source: Song et al. 2023, ICML (LGD-MC), eq. 8-10. Cost: one VJP and `samples` losses a step; needs draws.
    """

    loss: Loss
    samples: Whole = 8
    width: NonNegative = 1.0
    policy: StepSize = Damped(Bayes())
    differentiates = True

    def state(self, ctx: Context, x: Tensor) -> Tensor:
        soft = smoothed(ctx, self.loss, self.samples, self.width * ctx.prior_variance.sqrt())
        value, slope = ctx.gradient(soft, ctx.data)
        ctx.report(value)
        return x - self.policy(ctx, ctx.vjp(slope), value, slope)
