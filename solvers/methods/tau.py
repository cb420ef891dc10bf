"""Tau: how strong the noise of a reverse SDE is, with one meaning for every method that takes it.

Every process of marginals p_t has a family of reverse SDEs that keep them. In z = x/sigma and lambda,

    dz = (-tau^2 z + (1 + tau^2) e^lambda D) dlambda + sqrt(2) tau dB

tau = 0 is the probability flow, tau = 1 the time reversal of the process, and tau may be any function of lambda. A
method's step holds tau^2 at its mean over the step.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from ..wanted import Wanted
from .weights import integrate

NoiseStrength = float | Annotated[Callable[[float], float], Wanted("a function of lambda")]


@dataclass(frozen=True)
class Tau:
    """tau(lambda) = `value` where low <= sigma/alpha <= high, else 0: noise in a band of levels, as SA-Solver
    uses it.
    """

    value: float
    low: float = 0.0
    high: float = math.inf

    def __post_init__(self) -> None:
        if not (self.value >= 0 and 0 <= self.low < self.high):
            raise ValueError(
                f"Tau: got value={self.value}, low={self.low}, high={self.high}, expected value >= 0 and "
                "0 <= low < high in units of sigma/alpha; swap the ends"
            )

    def __call__(self, lam: float) -> float:
        return self.value if self.low <= math.exp(-lam) <= self.high else 0.0

    def mean_square(self, low: float, high: float) -> float:
        """Mean of tau^2 over lambda in [low, high], in closed form: quadrature would miss where the band ends."""
        inside = self.until(np.array([low, high])).tolist()
        return self.value**2 * ((inside[1] - inside[0]) / (high - low))

    def until(self, lam: np.ndarray) -> np.ndarray:
        """The part of the band below `lam`, up to a constant: INT tau^2 is its difference times value^2."""
        first = -math.log(self.high) if math.isfinite(self.high) else -math.inf
        return np.clip(lam, first, -math.log(self.low) if self.low else math.inf)


@dataclass(frozen=True)
class Eta:
    """DDIM's eta as a tau: over a step of length h in lambda

        tau^2 = -log(1 - eta^2 (1 - e^{-2h})) / (2h)

    is what makes sigma_t sqrt(1 - e^{-2 tau^2 h}), the noise of a step of strength tau, DDIM's sd = eta sigma_t
    sqrt(1 - e^{-2h}). It tends to tau = eta for short steps, and is 1 at eta = 1 for all.
    """

    value: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.value <= 1:
            raise ValueError(f"Eta: got value={self.value}, expected 0 <= value <= 1; Tau has no upper limit")

    def __call__(self, lam: float) -> float:
        return self.value

    def mean_square(self, low: float, high: float) -> float:
        """Of a step from `low` to `high` in lambda."""
        if self.value == 1:
            return 1.0
        return -math.log1p(self.value**2 * math.expm1(2 * (low - high))) / (2 * (high - low))


def mean_square(tau: NoiseStrength, low: float, high: float) -> float:
    """Mean of tau^2 over a step from `low` to `high` in lambda; tau^2 at the finite end of an infinite one."""
    if not callable(tau):
        return tau**2
    if not (math.isfinite(low) and math.isfinite(high)):
        return tau(high if math.isfinite(high) else low) ** 2
    if isinstance(tau, Tau | Eta):
        return tau.mean_square(low, high)
    return integrate(lambda lam: np.array([tau(float(u)) ** 2 for u in lam]), low, high) / (high - low)


def has_noise(tau: NoiseStrength) -> bool:
    """Whether it draws noise anywhere; a function is taken to."""
    return callable(tau) or tau > 0


def check_tau(asker: str, tau: NoiseStrength) -> None:
    """Raise ValueError in the name of `asker` for a number that is no strength."""
    if not callable(tau) and not 0 <= tau < math.inf:
        raise ValueError(f"{asker}: got tau={tau}, expected a number >= 0 or a function of lambda")
