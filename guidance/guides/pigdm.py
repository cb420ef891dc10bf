"""Pseudo-inverse guided diffusion."""

from dataclasses import dataclass

from torch import Tensor

from ...solvers import Model, Plan
from ...solvers.wanted import NonNegative
from ..measurements.measurement import Measurement
from .context import Context
from .guide import Twist
from .step_size import Capped, StepSize, Tweedie


@dataclass(frozen=True, eq=False)
class PiGDM(Twist):
    """D' = D + strength policy(J^T A^T (r_t^2 A A^T + s_y^2 I)^-1 (y - A D)), J = dD/dx_t.

    p(y|x_t) is taken for N(A D, r_t^2 A A^T + s_y^2 I) with r_t^2 = s0^2 sigma^2/(alpha^2 s0^2 + sigma^2),
    the posterior variance of data of standard deviation s0 = `data_std`: exact for Gaussian data N(m, s0^2
    I). With s_y = 0 the inverse is a pseudo-inverse.

    Args:
        policy: by default the weight of Bayes' rule, sigma^2/alpha, capped where D' would overshoot y, as it
            would where the data vary more than `data_std`. `Tweedie()`: not capped; `PiGDMWeight()`: as published.

    Source: Song et al. 2023 (PiGDM), ICLR, eq. 7. Cost: one VJP and one solve a call; any plan that denoises.
    """

    measurement: Measurement
    data_std: float = 1.0
    strength: NonNegative = 1.0
    policy: StepSize = Capped(Tweedie())
    differentiates = True

    def check(self, denoiser: Model, plan: Plan, x: Tensor) -> None:
        if not self.data_std > 0:
            raise ValueError(
                f"PiGDM: got data_std={self.data_std}, expected > 0, the standard deviation of the data"
            )
        self.measurement.check(x, "A_adjoint")

    def data(self, ctx: Context, data: Tensor) -> Tensor:
        m, prior, noise = self.measurement, self.data_std**2, ctx.sigma.square()
        variance = prior * noise / (ctx.alpha.square() * prior + noise)  # r_t^2
        residual = m.residual(ctx.data)
        ctx.report(residual.flatten(1).square().sum(1))
        solved = m.solve(residual, variance.flatten(), m.variance)
        nats = 0.5 * (residual * solved).flatten(1).sum(1)
        # the determinant depends on t alone, and is left out
        ctx.memory(self)["log_likelihood"] = -nats
        at_data = -m.pull(solved, data)
        move = self.policy(ctx, ctx.vjp(at_data), nats, at_data)
        return data - self.strength * move

    def log_likelihood(self, ctx: Context) -> Tensor:
        return ctx.memory(self)["log_likelihood"]
