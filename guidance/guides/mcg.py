"""Manifold constrained gradients."""

from dataclasses import dataclass

from torch import Tensor

from ...solvers import Model, Plan
from ...solvers.broadcast import per_sample
from ..measurements.measurement import Measurement
from .context import Context
from .guide import Guide
from .step_size import Residual, StepSize


@dataclass(frozen=True, eq=False)
class MCG(Guide):
    """DPS's step, then x_s <- x_s - A^+ (A x_s - y_s) with y_s = alpha_s y + sigma_s A xi, the measurement
    noised to level s.

    Source: Chung et al. 2022, arXiv 2206.00941, eq. 14-16. Cost: one VJP and one A^+ a step.
    """

    measurement: Measurement
    policy: StepSize = Residual()
    differentiates = True

    def check(self, denoiser: Model, plan: Plan, x: Tensor) -> None:
        self.measurement.check(x, "A_dagger")

    def state(self, ctx: Context, x: Tensor) -> Tensor:
        m = self.measurement
        value, slope = ctx.gradient(m, ctx.data)
        ctx.report(value)
        x = x - self.policy(ctx, ctx.vjp(slope), value)
        rest = m.physics.A(x - ctx.next_sigma * ctx.draw()) - _times(ctx.next_alpha, m.y.to(x))
        return x - m.physics.A_dagger(rest).reshape(x.shape)


def _times(level: Tensor, y: Tensor) -> Tensor:
    return per_sample(level, y) * y
