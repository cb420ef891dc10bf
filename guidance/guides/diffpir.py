"""DiffPIR: plug-and-play restoration with a proximal step on the prediction."""

from dataclasses import dataclass

from torch import Tensor

from ...solvers import Model, Plan
from ..measurements.measurement import Measurement
from .context import Context
from .guide import Guide


@dataclass(frozen=True, eq=False)
class DiffPIR(Guide):
    """D' = argmin_x |y - A x|^2/(2 s_y^2) + lam (alpha^2/sigma^2) |x - D|^2/2
          = D + A^T (A A^T + s_y^2 lam (alpha^2/sigma^2) I)^-1 (y - A D).

    The paper's zeta, the share of fresh noise, is the plan's: DDIM(eta).

    Source: Zhu et al. 2023, arXiv 2305.08995, eq. 11-13. Cost: no VJP, one solve a call; any plan that
    denoises.
    """

    measurement: Measurement
    lam: float = 8.0

    def check(self, denoiser: Model, plan: Plan, x: Tensor) -> None:
        if not self.lam > 0:
            raise ValueError(f"DiffPIR: got lam={self.lam}, expected > 0")
        self.measurement.check(x, "A_adjoint")

    def data(self, ctx: Context, data: Tensor) -> Tensor:
        m = self.measurement
        residual = m.residual(ctx.data)
        ctx.report(residual.flatten(1).square().sum(1))
        ridge = m.variance * self.lam * (ctx.alpha / ctx.sigma).square()
        return data + m.pull(m.solve(residual, 1.0, ridge.flatten()), data)
