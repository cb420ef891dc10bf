"""Methods of two coupled states, made so that every instruction can be undone."""

import math
from abc import abstractmethod
from dataclasses import dataclass

from ...compiler import Builder
from ...instructions import Combine
from ...prediction import DATA, NOISE
from ..reversible_method import ReversibleMethod
from ..tau import NoiseStrength, check_tau, has_noise, mean_square


@dataclass(frozen=True)
class ReversibleHeun(ReversibleMethod):
    """Reversible Heun in exponential coordinates, in a staggered form that is undone instruction by instruction.

    Data side, gamma = alpha/sigma, h_i = gamma_{i+1} - gamma_i, r = sigma_{i+1}/sigma_i, y a second state:
        x <- x_0 + sigma_0 (h_0/2) D(y = x_0)
        y <- r (2 x - y);   x <- r x + sigma_{i+1} (h_i + h_{i+1})/2 D(y),   h_N = 0
    Noise side: the same with alpha for sigma, sigma/alpha for gamma and the noise prediction for D.

    tau > 0 is the reverse SDE of that strength, on the data side: k = sigma e^{-q} in place of sigma, gamma =
    (alpha/sigma) e^q with q = INT tau^2 dlambda, and one draw w = sigma_{i+1} sqrt(1 - e^{-2 (q_{i+1} - q_i)}) xi that
    both states take and the inverse gives back:
        y <- r (2 x - y) + w;   x <- r x + k_{i+1} (h_i + h_{i+1})/2 D(y) + w

    No damping: linearly stable on [-i, i] only. The data side is the one to use from noise to data, also
    under strong guidance. Source: Kidger et al. 2021, arXiv 2105.13493, for dy = f dt + g dw; here with f = D, t =
    gamma. Order with noise: weak 2 on Gaussian data, strong 1. Cost: N + 1 network calls, 2 states.
    """

    noise_side: bool = False
    tau: NoiseStrength = 0.0
    order = 2
    staggered = True

    def __post_init__(self) -> None:
        check_tau("ReversibleHeun", self.tau)
        if self.noise_side and self.stochastic:
            raise ValueError(
                "ReversibleHeun: got noise_side=True with noise, expected tau=0; the data side is the one for grids "
                "that fall, as those with noise do"
            )

    @property
    def stochastic(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return has_noise(self.tau)

    def inner(self, b: Builder, i: int, low: int, high: int) -> None:
        scale, other, want, sign = (
            (b.sigma, b.alpha, DATA, 1) if not self.noise_side else (b.alpha, b.sigma, NOISE, -1)
        )

        def lengths(k: int) -> tuple[float, float]:
            """Of step k: INT tau^2 dlambda, and what the clock's logarithm grows by."""
            h = b.lam[k + 1] - b.lam[k]
            square = mean_square(self.tau, b.lam[k], b.lam[k + 1]) * h
            return square, square + sign * h

        def ahead(k: int) -> float:
            """k_k h_k: the whole of step k on a prediction at its start; none beyond the last."""
            return other[k] * math.expm1(lengths(k)[1]) if k < high else 0.0

        if i == low:
            b.combine("y", (1.0, "x"))
            b.combine("x", (1.0, "x"), (ahead(i) / 2, b.evaluate(f"D{i}", b.t[i], want, "y")))
        square, growth = lengths(i)
        r = scale[i + 1] / scale[i] * math.exp(-square)
        behind = -other[i + 1] * math.expm1(-growth)  # k_{i+1} h_i
        drawn = ()
        if square:
            drawn = ((b.sigma[i + 1] * math.sqrt(-math.expm1(-2 * square)), b.slots),)
            b.slots += 1
        b.ops.append(Combine("y", ((2 * r, "x"), (-r, "y")), drawn))
        late = b.evaluate(f"D{i + 1}", b.t[i + 1], want, "y")
        b.ops.append(Combine("x", ((r, "x"), ((behind + ahead(i + 1)) / 2, late)), drawn))


class _TwoStep(ReversibleMethod):
    """Methods that leap from the state before to the state after over a prediction at the state between."""

    staggered = True

    def inner(self, b: Builder, i: int, low: int, high: int) -> None:
        # the two states take turns in "x" and "y", so that the last is in "x"
        odd = (high - low) % 2 == 1
        if i == low:
            b.combine("y", (1.0, "x"))
            if not odd:
                return b.first_order(i, "x", "y")  # y is a copy of x, and is carried over the step
            return b.first_order(i, "y", "x")
        now, before = ("x", "y") if ((i - low) % 2 == 1) == odd else ("y", "x")
        self.leap(b, i, now, before)

    @abstractmethod
    def leap(self, b: Builder, i: int, now: str, before: str) -> None:
        """before (at i - 1) <- the state at i + 1."""


@dataclass(frozen=True)
class BDIA(_TwoStep):
    """x_{i+1} = gamma x_{i-1} + DDIM_{i -> i+1}(x_i) - gamma DDIM_{i -> i-1}(x_i).

    gamma = 1 is a leapfrog, of second order and with no damping; below 1 it is first order and its inverse
    amplifies round-off by gamma^-N. Source: Zhang et al. 2023, arXiv 2307.10829, eq. 10. Cost: 1 network call
    a step, 2 states.
    """

    gamma: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.gamma <= 1:
            raise ValueError(
                f"BDIA: got gamma={self.gamma}, expected 0 < gamma <= 1; at 0 it is DDIM, which has no "
                "inverse"
            )

    @property
    def order(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return 2 if self.gamma == 1 else 1

    def leap(self, b: Builder, i: int, now: str, before: str) -> None:
        data = b.evaluate(f"D{i}", b.t[i], DATA, now)
        (to, gain), (back, loss) = b.ddim(i, i + 1), b.ddim(i, i - 1)
        b.combine(
            before, (self.gamma, before), (to - self.gamma * back, now), (gain - self.gamma * loss, data)
        )


@dataclass(frozen=True)
class OBELM(_TwoStep):
    """With Y = x/alpha, chi = sigma/alpha, d1 = chi_i - chi_{i-1}, d2 = chi_{i+1} - chi_i, q = (d2/d1)^2:

        Y_{i+1} = q Y_{i-1} + (1 - q) Y_i + d2 (d1 + d2)/d1 E(x_i)

    Second order, no damping; for grids near uniform in lambda (on others the weights (d2/d1)^2 amplify).
    Source: Wang et al. 2024, arXiv 2410.07273, eq. 18. Cost: 1 network call a step, 2 states.
    """

    order = 2

    def leap(self, b: Builder, i: int, now: str, before: str) -> None:
        d1, d2 = b.rho(i) - b.rho(i - 1), b.rho(i + 1) - b.rho(i)
        q = (d2 / d1) ** 2
        alpha = b.alpha[i + 1]
        b.combine(
            before,
            (alpha * q / b.alpha[i - 1], before),
            (alpha * (1 - q) / b.alpha[i], now),
            (alpha * d2 * (d1 + d2) / d1, b.evaluate(f"E{i}", b.t[i], NOISE, now)),
        )


@dataclass(frozen=True)
class EDICT(ReversibleMethod):
    """Two states that step on each other's noise prediction and are mixed, a = alpha_t/alpha_s, c = sigma_t -
    sigma_s a:

        x <- a x + c E(y);  y <- a y + c E(x);  x <- p x + (1 - p) y;  y <- p y + (1 - p) x

    Its inverse amplifies the difference of the two by 1/p^2 a step. Source: Wallace et al. 2023, arXiv
    2211.12446, eq. 13 to 15. Cost: 2 network calls a step, 2 states.
    """

    p: float = 0.93
    order = 1

    def __post_init__(self) -> None:
        if not 0 < self.p <= 1:
            raise ValueError(f"EDICT: got p={self.p}, expected 0 < p <= 1")

    def inner(self, b: Builder, i: int, low: int, high: int) -> None:
        if i == low:
            b.combine("y", (1.0, "x"))
        a = b.alpha[i + 1] / b.alpha[i]
        c = -b.sigma[i + 1] * math.expm1(b.lam[i + 1] - b.lam[i])
        b.combine("x", (a, "x"), (c, b.evaluate(f"E{i}", b.t[i], NOISE, "y")))
        b.combine("y", (a, "y"), (c, b.evaluate(f"F{i}", b.t[i], NOISE, "x")))
        b.combine("x", (self.p, "x"), (1 - self.p, "y"))
        b.combine("y", (self.p, "y"), (1 - self.p, "x"))
