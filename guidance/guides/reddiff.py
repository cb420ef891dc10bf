"""RED-diff: variational inference of one point."""

from dataclasses import dataclass

from torch import Tensor

from ...solvers.wanted import Betas, NonNegative, Positive
from ..loss import Loss
from .context import Context
from .guide import Guide
from .moments import Moments


@dataclass(frozen=True, eq=False)
class REDdiff(Guide):
    """Adam on mu with grad L(mu) + weight (sigma/alpha) (eps(x_t) - e) at x_t = alpha mu + sigma e;
    then x_s = alpha_s mu + sigma_s e'.

    The network's Jacobian is left out. It seeks a mode: one point, no draw from the posterior; end the plan
    at sigma = 0 or close to it, and use many steps. mu starts at the first prediction.

    Args:
        loss: in nats.  weight: of the network against it.  lr, betas: Adam's.

    Source: Mardani et al. 2023, arXiv 2305.04391, eq. 10 and algorithm 1. Cost: no VJP; needs draws.
    """

    loss: Loss
    weight: NonNegative = 0.25
    lr: Positive = 0.1
    betas: Betas = (0.9, 0.99)

    def state(self, ctx: Context, x: Tensor) -> Tensor:
        kept = ctx.memory(self)
        mu = kept.get("mu", ctx.data)
        value, slope = ctx.gradient(self.loss, mu)
        ctx.report(value)
        # eps(x_t) - e = (alpha/sigma) (mu - D), so the weight sigma/alpha cancels
        slope = slope + self.weight * (mu - ctx.data)
        moments = kept["moments"] = kept.get("moments", Moments.zero(mu, self.betas)).updated(slope)
        mu = kept["mu"] = mu - moments.step(self.lr)
        return ctx.next_alpha * mu + ctx.next_sigma * ctx.draw()
