"""DAPS: decoupled annealing of the posterior."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...solvers import Model, Plan
from ...solvers.wanted import NonNegative, Whole
from ..measurements.measurement import Measurement
from .context import Context
from .guide import Guide


@dataclass(frozen=True, eq=False)
class DAPS(Guide):
    """x0 ~ N(x0hat, r_t^2 I) p(y|x0), x0hat by `k` steps of the flow; then x_s = alpha_s x0 + sigma_s e.

    r_t = width sigma/alpha. With a linear physics (one with `A_adjoint`) the draw is exact, else by Langevin
    dynamics.

    Args:
        k: network calls from x_t to x0hat.  width: 1 is the paper's choice.
        langevin: steps of the dynamics, of size `rate` times the smaller of r_t^2 and s_y^2.

    Source: Zhang et al. 2024, arXiv 2407.01521, algorithm 1 and eq. 7. Cost: k network calls a step, no VJP;
    needs draws.
    """

    measurement: Measurement
    k: Whole = 3
    width: NonNegative = 1.0
    langevin: Whole = 20
    rate: NonNegative = 0.05

    def check(self, denoiser: Model, plan: Plan, x: Tensor) -> None:
        self.measurement.check(x, noisy=True)

    def state(self, ctx: Context, x: Tensor) -> Tensor:
        m = self.measurement
        centre, _ = ctx.lookahead(self.k)
        ctx.report(m(centre))
        std = self.width * ctx.sigma / ctx.alpha.clamp(min=1e-3)  # r_t; finite at alpha = 0
        draw = self.exact if hasattr(m.physics, "A_adjoint") else self.by_langevin
        return ctx.next_alpha * draw(ctx, centre, std) + ctx.next_sigma * ctx.draw()

    def exact(self, ctx: Context, centre: Tensor, std: Tensor) -> Tensor:
        """A draw of N(centre, std^2 I) p(y|x0), A linear: a draw of the prior, moved as its mean would be by
        what a draw of the measurement leaves unexplained.
        """
        m, variance = self.measurement, std.square()
        x0 = centre + std * ctx.draw()
        residual = m.residual(x0)
        residual = residual + m.std * ctx.draw(residual)
        return x0 + variance * m.pull(m.solve(residual, variance.flatten(), m.variance), x0)

    def by_langevin(self, ctx: Context, centre: Tensor, std: Tensor) -> Tensor:
        """The same for any A, nearly: x0 <- x0 - step grad(-log p) + sqrt(2 step) xi, from the centre."""
        m, variance, x0 = self.measurement, std.square(), centre
        step = self.rate * torch.minimum(variance, torch.ones_like(variance) * m.variance)
        for _ in range(self.langevin):
            _, slope = ctx.gradient(m.nats, x0)
            x0 = x0 - step * (slope + (x0 - centre) / variance) + (2 * step).sqrt() * ctx.draw()
        return x0
