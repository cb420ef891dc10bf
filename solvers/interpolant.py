"""Two-sided stochastic interpolants: from samples of any law to samples of any other, and back."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from .broadcast import per_sample
from .process import Process, as_time, slope
from .wanted import Wanted

Weight = Annotated[Callable[[Tensor], Tensor], Wanted("a function of t, a float64 tensor")]


@dataclass(frozen=True)
class Interpolant(Process):
    """x_t = alpha(t) x_0 + beta(t) x_1 + gamma(t) z, z ~ N(0, I), x_0 data and x_1 of the base, both of any law.

    The velocity u = E[alpha' x_0 + beta' x_1 + gamma' z given x_t] carries the law of x_t along, in either direction
    (`FLOW`); the score is -E[z given x_t]/gamma. Neither determines the other, and no data or noise prediction
    follows: plans that ask for velocities (FlowEuler, FlowMidpoint, FlowHeun, FlowAdams) run on a network of u, those
    with noise (StochasticFlow) on `TwoHeads`, all others are refused. With a Gaussian base it is one-sided:
    UserPair(alpha, sqrt(beta^2 + gamma^2)) then knows more.

    Args:
        alpha_fn, beta_fn, gamma_fn: functions of a float64 tensor; alpha = 1 at t_min and beta = 1 at t_max, where the
            other two vanish. The paper's time runs the other way: its x_0 is the base.

    Source: Albergo, Boffi and Vanden-Eijnden 2023, arXiv 2303.08797, section 2.
    """

    alpha_fn: Weight
    beta_fn: Weight
    gamma_fn: Weight
    t_min: float = 0.0
    t_max: float = 1.0

    def alpha(self, t: Tensor | float) -> Tensor:
        return self.alpha_fn(as_time(t))

    def beta(self, t: Tensor | float) -> Tensor:
        """beta(t), the factor on the base."""
        return self.beta_fn(as_time(t))

    def gamma(self, t: Tensor | float) -> Tensor:
        """gamma(t), the factor on the latent noise z."""
        return self.gamma_fn(as_time(t))

    def log_alpha(self, t: Tensor | float) -> Tensor:
        return self.alpha(t).log()

    def log_sigma(self, t: Tensor | float) -> Tensor:
        return self.sigma(t).log()

    def sigma(self, t: Tensor | float) -> Tensor:
        """Raises ValueError: what is not data is not all noise, and nothing may take it for that."""
        raise ValueError(
            "Interpolant: got asked for sigma(t), expected methods and models that need none, since x_t has a base in "
            "it: take FlowHeun() or another flow method on a network of FLOW, or StochasticFlow(eps) with "
            "TwoHeads(...).on(plan)"
        )

    def lam(self, t: Tensor | float) -> Tensor:
        """nan: no ratio of signal to noise."""
        return torch.full_like(as_time(t), torch.nan)

    def between(self, x0: Tensor, x1: Tensor, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(x_t, its rate alpha' x0 + beta' x1 + gamma' z) at times t (B,): what a network of u sees, and its target.

        The rate's mean square is infinite where gamma'^2 is not integrable, as at the ends of gamma = sqrt(2 t (1 -
        t)): draw t inside.
        """
        functions = (self.alpha_fn, self.beta_fn, self.gamma_fn)
        at, rate = ([each(as_time(t)) for each in functions], [slope(each, t) for each in functions])
        state, velocity = (
            sum(per_sample(c.to(x), x) * x for c, x in zip(weights, (x0, x1, z), strict=True))
            for weights in (at, rate)
        )
        assert isinstance(state, Tensor) and isinstance(velocity, Tensor)
        return state, velocity
