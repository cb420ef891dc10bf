"""DDIM and its eta family, and DDPM ancestral sampling."""

import math
from dataclasses import dataclass
from enum import Enum

from torch import Tensor

from ..compiler import Builder, Method
from ..instructions import Apply, Evaluate
from ..prediction import DATA
from .draws import draw
from .sa import SASolver
from .tau import Eta, Tau


@dataclass(frozen=True)
class DDIM(Method):
    """x_t = alpha_t D + sqrt(sigma_t^2 - sd^2) E + sd xi,  sd = eta sigma_t sqrt(1 - e^{-2h}).

    eta = 0 is the probability-flow ODE to first order; eta = 1 is DDPM with the small variance. A `Tau` in its
    place is the strength itself, sd = sigma_t sqrt(1 - e^{-2 tau^2 h}), which also goes beyond DDPM; steps that
    touch alpha = 0 are then deterministic.
    Source: Song et al. 2021, arXiv 2010.02502, eq. 12 and 16. Cost: 1 network call a step, 2 states.
    """

    eta: float | Tau | Eta = 0.0
    order = 1

    def __post_init__(self) -> None:
        if not (isinstance(self.eta, Tau | Eta) or 0 <= self.eta <= 1):
            raise ValueError(f"DDIM: got eta={self.eta}, expected 0 <= eta <= 1, or a Tau")

    @property
    def stochastic(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return isinstance(self.eta, Tau) or self._share > 0

    @property
    def _share(self) -> float:
        """eta as a number, where it is one."""
        return self.eta.value if isinstance(self.eta, Eta) else float(self.eta)  # type: ignore[arg-type]

    def step(self, b: Builder, i: int) -> None:
        if isinstance(self.eta, Tau):
            return SASolver(1, 0, tau=self.eta).step(b, i)
        if not self._share or b.sigma[i + 1] == 0:
            return b.first_order(i)
        s, t = i, i + 1
        sd = self._share * b.sigma[t] * math.sqrt(-math.expm1(2 * (b.lam[s] - b.lam[t])))
        ratio = math.sqrt(b.sigma[t] ** 2 - sd**2) / b.sigma[s]  # E = (x - alpha_s D) / sigma_s
        data = b.evaluate(f"D{i}", b.t[s], DATA)
        b.combine("x", (ratio, "x"), (b.alpha[t] - b.alpha[s] * ratio, data), noise=sd)


class PosteriorVariance(Enum):
    """The variance of DDPM's step, with beta = sigma_s^2 - (alpha_s sigma_t/alpha_t)^2: that of the forward step.

    SMALL: beta sigma_t^2/sigma_s^2, exact for data in one point. LARGE: beta, exact for data N(0, I) under a
    variance-preserving process: the lower and the upper bound of the reverse step's variance. LEARNED: between the two
    in logarithms, as a `LearnedVariance` network says for every element.
    """

    SMALL = "small"
    LARGE = "large"
    LEARNED = "learned"

    def __repr__(self) -> str:
        return self.name


@dataclass(frozen=True)
class DDPM(Method):
    """Ancestral sampling from the Gaussian posterior q(x_t | x_s, x_0 = D), a = alpha_s/alpha_t, beta =
    sigma_s^2 - a^2 sigma_t^2:

        mean = (a sigma_t^2 x + alpha_t beta D) / sigma_s^2
        variance = beta' = beta sigma_t^2 / sigma_s^2;  LARGE: beta;  LEARNED: exp(u log beta + (1 - u) log beta')

    with u = (v + 1)/2 of the network's v, as published checkpoints have it; the paper's eq. 15 writes v for u. LEARNED
    steps are no linear instructions: moments, transitions and recovered noise are refused. A step to sigma = 0 draws
    nothing. Source: Ho et al. 2020, arXiv 2006.11239, eq. 7 and section 3.2; Nichol and Dhariwal 2021, arXiv
    2102.09672, eq. 15. Cost: 1 network call a step, 2 states (LEARNED: 5), 1 noise.
    """

    variance: PosteriorVariance = PosteriorVariance.SMALL
    order = 1
    stochastic = True

    def step(self, b: Builder, i: int) -> None:
        s, t = i, i + 1
        kept = (b.sigma[t] / b.sigma[s]) ** 2
        a = b.alpha[s] / b.alpha[t]
        # 1 - a^2 sigma_t^2/sigma_s^2 = 1 - e^{-2h}, without cancellation
        fresh = -math.expm1(2 * (b.lam[s] - b.lam[t])) if b.finite(s) and b.finite(t) else 1 - a * a * kept
        if self.variance is PosteriorVariance.LEARNED and b.sigma[t]:
            b.ops.append(Evaluate((f"D{i}", f"v{i}"), "x", b.t[s], DATA, variance=True))
            width = math.log(b.sigma[s] / b.sigma[t])  # of log deviation, from that of beta' to that of beta
            b.combine(f"v{i}", (width / 2, f"v{i}"))
            b.ops.append(Apply((f"xi{i}",), (f"v{i}", draw(b, f"xi{i}")), _scaled))
            middle = math.sqrt(b.sigma[s] * b.sigma[t] * fresh)
            b.combine("x", (a * kept, "x"), (b.alpha[t] * fresh, f"D{i}"), (middle, f"xi{i}"))
            return
        scale = b.sigma[s] if self.variance is PosteriorVariance.LARGE and b.sigma[t] else b.sigma[t]
        data = b.evaluate(f"D{i}", b.t[s], DATA)
        b.combine("x", (a * kept, "x"), (b.alpha[t] * fresh, data), noise=scale * math.sqrt(fresh))


def _scaled(log_scale: Tensor, drawn: Tensor) -> Tensor:
    return log_scale.exp() * drawn
