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
    """DPS's step, then x_s <- x_s - A^+ (A x_s - y_s), y_s = alpha_s y + sigma_s A xi: the state is made to
    agree with the measurement noised to its own level.

    Source: Chung et al. 2022, arXiv 2206.00941, eq. 14-16. Cost: one VJP and one A^+ a step; needs draws.
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
        x = x - self.policy(ctx, ctx.vjp(slope), value, slope)
        y = m.y.to(x)  # its axes need not be those of x
        # A x_s - y_s, by linearity with one A
        excess = m.physics.A(x - ctx.next_sigma * ctx.draw()) - per_sample(ctx.next_alpha, y) * y
        return x - m.physics.A_dagger(excess).reshape(x.shape)
