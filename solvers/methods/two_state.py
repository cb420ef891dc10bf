"""Methods that can be undone exactly: two coupled states instead of one.

A step that touches alpha = 0 or sigma = 0 is first order and keeps its starting state in a register of its
own.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass

from ..compiler import Builder, Method
from ..prediction import DATA, NOISE


def finite_run(b: Builder) -> tuple[int, int]:
    """First and last node with a finite lambda; only the ends of a grid can be infinite."""
    nodes = [i for i in range(b.steps + 1) if b.finite(i)]
    return (nodes[0], nodes[-1]) if nodes else (b.steps, b.steps)


class ReversibleMethod(Method):
    """A method whose finite part is emitted step by step between first-order ends that keep their start."""

    def step(self, b: Builder, i: int) -> None:
        low, high = finite_run(b)
        if low <= i < high:
            return self.inner(b, i, low, high)
        b.combine(f"kept{i}", (1.0, "x"))
        b.first_order(i, f"kept{i}")

    @abstractmethod
    def inner(self, b: Builder, i: int, low: int, high: int) -> None:
        """Emit step i, low <= i < high, all nodes low .. high finite."""


@dataclass(frozen=True)
class ReversibleHeun(ReversibleMethod):
    """Reversible Heun in exponential coordinates, in a staggered form that is undone instruction by instruction.

    Data side, gamma = alpha/sigma, h_i = gamma_{i+1} - gamma_i, r = sigma_{i+1}/sigma_i, y a second state:
        x <- x_0 + sigma_0 (h_0/2) D(y = x_0)
        y <- r (2 x - y);   x <- r x + sigma_{i+1} (h_i + h_{i+1})/2 D(y),   h_N = 0
    Noise side: the same with alpha for sigma, sigma/alpha for gamma and the noise prediction for D.

    No damping: linearly stable on [-i, i] only. The data side is the one to use from noise to data, also
    under strong guidance. Source: Kidger et al. 2021, arXiv 2105.13493, for dy = f dt; here with f = D, t =
    gamma. Cost: N + 1 network calls, 2 states.
    """

    noise_side: bool = False
    order = 2

    def inner(self, b: Builder, i: int, low: int, high: int) -> None:
        scale, other, want = (b.alpha, b.sigma, NOISE) if self.noise_side else (b.sigma, b.alpha, DATA)

        def h(k: int) -> float:
            return other[k + 1] / scale[k + 1] - other[k] / scale[k] if k < high else 0.0

        if i == low:
            b.combine("y", (1.0, "x"))
            b.combine("x", (1.0, "x"), (scale[i] * h(i) / 2, b.evaluate(f"D{i}", b.t[i], want, "y")))
        r = scale[i + 1] / scale[i]
        b.combine("y", (2 * r, "x"), (-r, "y"))
        late = b.evaluate(f"D{i + 1}", b.t[i + 1], want, "y")
        b.combine("x", (r, "x"), (scale[i + 1] * (h(i) + h(i + 1)) / 2, late))


class _TwoStep(ReversibleMethod):
    """Methods that leap from the state before to the state after over a prediction at the state between."""

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
