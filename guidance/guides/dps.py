"""Diffusion posterior sampling."""

from dataclasses import dataclass

from torch import Tensor

from ..loss import Loss
from .context import Context
from .guide import Guide
from .step_size import Residual, StepSize


@dataclass(frozen=True, eq=False)
class DPS(Guide):
    """x_s <- x_s - policy(grad_{x_t} L(D(x_t))), L = |y - A x|^2 and the policy zeta / |y - A D| in the paper.

    The norm is each sample's own (released code takes it over the batch).

    Source: Chung et al. 2023, arXiv 2209.14687, algorithm 1. Cost: one VJP a step.
    """

    loss: Loss
    policy: StepSize = Residual()
    differentiates = True

    def state(self, ctx: Context, x: Tensor) -> Tensor:
        value, slope = ctx.gradient(self.loss, ctx.data)
        ctx.report(value)
        return x - self.policy(ctx, ctx.vjp(slope), value, slope)
