"""DiffPIR: plug-and-play restoration with a proximal step on the prediction."""

from dataclasses import dataclass

from torch import Tensor

from ...solvers import Model, Plan
from ..measurements.measurement import Measurement
from .context import Context
from .guide import Guide, Hook


@dataclass(frozen=True, eq=False)
class DiffPIR(Guide):
    """D' = argmin_x |y - A x|^2/(2 s_y^2) + lam (alpha^2/sigma^2) |x - D|^2/2
          = D + A^T (A A^T + s_y^2 lam (alpha^2/sigma^2) I)^-1 (y - A D).

    Args:
        zeta: the share of fresh noise, 0 to 1, as published: x_s = alpha_s D' + sigma_s (sqrt(1 - zeta) eps' +
            sqrt(zeta) xi), eps' = (x_t - alpha D')/sigma, whatever step the plan takes. None: the plan's own
            step from D', on any plan that denoises; of DDIM(eta), whose eta = 1 stays below zeta = 1.

    Source: Zhu et al. 2023, arXiv 2305.08995, eq. 11-13 and algorithm 1. Cost: no VJP, one solve a call; with
    zeta it needs draws.
    """

    measurement: Measurement
    lam: float = 8.0
    zeta: float | None = None

    def hooks(self) -> frozenset[Hook]:
        return frozenset({Hook.DATA if self.zeta is None else Hook.STATE})

    def check(self, denoiser: Model, plan: Plan, x: Tensor) -> None:
        if not self.lam > 0 or self.zeta is not None and not 0 <= self.zeta <= 1:
            raise ValueError(
                f"DiffPIR: got lam={self.lam}, zeta={self.zeta}, expected lam > 0 and zeta None or in [0, 1]"
            )
        self.measurement.check(x, "A_adjoint")

    def restored(self, ctx: Context) -> Tensor:
        """D'."""
        m = self.measurement
        residual = m.residual(ctx.data)
        ctx.report(residual.flatten(1).square().sum(1))
        ridge = m.variance * self.lam * (ctx.alpha / ctx.sigma).square()
        return ctx.data + m.pull(m.solve(residual, 1.0, ridge.flatten()), ctx.data)

    def data(self, ctx: Context, data: Tensor) -> Tensor:
        return self.restored(ctx) if self.zeta is None else data

    def state(self, ctx: Context, x: Tensor) -> Tensor:
        if self.zeta is None:
            return x
        restored = self.restored(ctx)
        eps = (ctx.x - ctx.alpha * restored) / ctx.sigma
        noise = (1 - self.zeta) ** 0.5 * eps + self.zeta**0.5 * ctx.draw() if self.zeta else eps
        return ctx.next_alpha * restored + ctx.next_sigma * noise
