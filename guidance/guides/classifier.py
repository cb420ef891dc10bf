"""Classifier guidance, on the noisy state and on the prediction."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from ...solvers.wanted import Wanted
from ..loss import Loss, check_loss
from .context import Context
from .guide import Guide
from .step_size import Damped, Raw, StepSize
from .strengths import Strengths, strength_at


@dataclass(frozen=True, eq=False)
class ClassifierGuidance(Guide):
    """D' = D + scale (sigma^2/alpha) grad_{x_t} log p(c|x_t, t).

    With scale 1 and the true p(c|x_t) the run samples p(x_0|c): the oracle of the benchmarks.

    Args:
        log_prob: (x (B, ...), t (B,)) to (B,), log p(c|x_t) of a classifier of noisy states.

    Source: Dhariwal and Nichol 2021, arXiv 2105.05233, algorithm 2 (eps' = eps - scale sigma grad). Cost: no
    VJP of the network; any plan that denoises.
    """

    log_prob: Annotated[
        Callable[[Tensor, Tensor], Tensor],
        Wanted(
            "a function of (x (B, ...), t (B,)) to (B,); pass lambda x, t: ... of a classifier of noisy states"
        ),
    ]
    scale: Strengths = 1.0

    def data(self, ctx: Context, data: Tensor) -> Tensor:
        t = ctx.time.to(ctx.x).expand(len(ctx.x))

        def nats(x: Tensor) -> Tensor:
            value = self.log_prob(x, t)
            check_loss(value, len(x), "log_prob")
            return -value

        value, slope = ctx.gradient(nats, ctx.x)
        ctx.report(value)
        return data - strength_at(ctx, self.scale) * ctx.tweedie * slope


@dataclass(frozen=True, eq=False)
class DataGuidance(Guide):
    """D' = D - (sigma^2/alpha) policy(grad_{x_t} L(D(x_t))), L = -log p(c|x_0) in nats read off the prediction.

    Classifier guidance with a classifier of clean samples; for a measurement `measurement.nats`. The
    default policy keeps Bayes' weight, `Raw()`, from overshooting; `SNR` does so by a number.

    Cost: one VJP a call; any plan that denoises.
    """

    loss: Loss
    policy: StepSize = Damped(Raw())
    differentiates = True

    def data(self, ctx: Context, data: Tensor) -> Tensor:
        value, slope = ctx.gradient(self.loss, ctx.data)
        ctx.report(value)
        return data - ctx.tweedie * self.policy(ctx, ctx.vjp(slope), value, slope)
