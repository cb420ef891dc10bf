"""Training-free guidance: DPS, LGD, MPGD, FreeDoM and universal guidance as choices of one class."""

from dataclasses import dataclass

from torch import Tensor

from ...solvers.wanted import Count, NonNegative, Whole
from ..loss import Loss
from .context import Context
from .guide import Guide
from .lgd import smoothed
from .step_size import Bayes, Damped, Raw, Residual, ScoreRatio, StepSize, Tweedie
from .universal import descended


@dataclass(frozen=True, eq=False)
class TFG(Guide):
    """x_s <- x_s - g rho(grad_{x_t} L~(D)) + h Delta, D + Delta being D after `iterations` descents
    D <- D - mu(grad L~).

    Args:
        rho, mu: policies of the descent at x_t, through the network, and at D; None: not taken.
        samples, width: L~ is L smoothed by so many draws of scale width r_t, as `LGD` does; 0: L itself.
        travels: how often each step is taken, the state noised back in between.
        consistent: whether a change of D moves eps with it (universal guidance): h = dx_s/dD, g = h
            sigma^2/alpha; else eps is held (MPGD): h = alpha_s, g = 1.

    Source: Ye et al. 2024, arXiv 2409.15761, algorithm 1. Cost: `travels` network calls a step, as many VJPs
    where rho is given; needs draws where it smooths or travels.
    """

    loss: Loss
    rho: StepSize | None = None
    mu: StepSize | None = None
    iterations: Whole = 1
    samples: Whole = 0
    width: NonNegative = 1.0
    travels: Count = 1
    consistent: bool = False

    def repeats(self, step: int, steps: int) -> int:
        return self.travels

    def graph(self, step: int, steps: int) -> bool:
        return self.rho is not None

    def state(self, ctx: Context, x: Tensor) -> Tensor:
        loss = smoothed(ctx, self.loss, self.samples, self.width * ctx.prior_variance.sqrt())
        value, slope = ctx.gradient(loss, ctx.data)
        ctx.report(value)
        h = ctx.gain if self.consistent else ctx.next_alpha
        if self.rho is not None:
            move = self.rho(ctx, ctx.vjp(slope), value, slope)
            x = x - (h * ctx.tweedie * move if self.consistent else move)
        if self.mu is not None:
            x = x + h * descended(ctx, loss, self.mu, self.iterations)
        return x

    @classmethod
    def dps(cls, loss: Loss, policy: StepSize = Residual()) -> "TFG":
        """`DPS`."""
        return cls(loss, rho=policy)

    @classmethod
    def lgd(
        cls, loss: Loss, samples: int = 8, width: float = 1.0, policy: StepSize = Damped(Bayes())
    ) -> "TFG":
        """`LGD`."""
        return cls(loss, rho=policy, samples=samples, width=width)

    @classmethod
    def mpgd(cls, loss: Loss, policy: StepSize = Damped(Tweedie())) -> "TFG":
        """`MPGD` without a projection."""
        return cls(loss, mu=policy)

    @classmethod
    def freedom(cls, loss: Loss, policy: StepSize = ScoreRatio(), travels: int = 1) -> "TFG":
        """`FreeDoM`, travelling at every step."""
        return cls(loss, rho=policy, travels=travels)

    @classmethod
    def universal(
        cls,
        loss: Loss,
        forward: StepSize = Damped(Raw()),
        backward: StepSize = Damped(Tweedie()),
        steps: int = 1,
        travels: int = 1,
    ) -> "TFG":
        """`Universal`."""
        return cls(loss, rho=forward, mu=backward, iterations=steps, travels=travels, consistent=True)
