"""DAPS: decoupled annealing of the posterior."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...solvers import Model, Plan
from ..measurements.measurement import Measurement
from .context import Context
from .guide import Guide


@dataclass(frozen=True, eq=False)
class DAPS(Guide):
    """x0 ~ N(x0hat, r_t^2 I) p(y|x0), x0hat by `k` steps of the flow; then x_s = alpha_s x0 + sigma_s e.

    A linear physics (one with `A_adjoint`) is drawn from exactly; others by `langevin` steps of size `rate`
    times r_t^2. r_t is `width` times sigma/alpha, the paper's choice. Source: Zhang et al. 2024, arXiv
    2407.01521, algorithm 1 and eq. 7. Cost: k network calls a step, no VJP; needs draws.
    """

    measurement: Measurement
    k: int = 3
    width: float = 1.0
    langevin: int = 20
    rate: float = 0.05

    def check(self, denoiser: Model, plan: Plan, x: Tensor) -> None:
        self.measurement.check(x, noisy=True)

    def state(self, ctx: Context, x: Tensor) -> Tensor:
        m = self.measurement
        start, ratio = ctx.lookahead(self.k)[0], self.width * ctx.sigma / ctx.alpha.clamp(min=1e-3)
        ctx.report(m(start))
        spread = ratio.square()
        if hasattr(m.physics, "A_adjoint"):
            guess = start + ratio * ctx.draw()
            rest = m.residual(guess)
            rest = rest + m.std * ctx.draw(rest)
            x0 = guess + spread * m.pull(m.solve(rest, spread.flatten(), m.variance), guess)
        else:
            x0, step = start, self.rate * torch.minimum(spread, torch.full_like(spread, m.variance))
            for _ in range(self.langevin):
                _, slope = ctx.gradient(m.nats, x0)
                x0 = x0 - step * (slope + (x0 - start) / spread) + (2 * step).sqrt() * ctx.draw()
        return ctx.next_alpha * x0 + ctx.next_sigma * ctx.draw()
