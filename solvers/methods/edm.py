"""EDM's Heun sampler, with its churn."""

import math
from dataclasses import dataclass

from ..compiler import Builder, Method
from .runge_kutta import EULER, HEUN, rho_step


@dataclass(frozen=True)
class EDMHeun(Method):
    """Heun on dy/drho = E, y = x/alpha, rho = sigma/alpha; Euler where a step touches alpha = 0 or sigma = 0.

    With churn the step begins at a noised point, where the network is called:

        rho^ = (1 + g) rho,  y^ = y + s_noise sqrt(rho^^2 - rho^2) xi,  g = min(churn/N, sqrt(2) - 1)

    for s_min <= rho <= s_max, and rho^ no more than the process's largest. Weak order 2 with s_noise = 1; any
    other leaves an error that no step count removes.

    Source: Karras et al. 2022, arXiv 2206.00364, algorithms 1 and 2. Cost: 2 network calls a step, 1 for an
    Euler step.
    """

    churn: float = 0.0
    s_min: float = 0.0
    s_max: float = math.inf
    s_noise: float = 1.0
    order = 2

    def __post_init__(self) -> None:
        if not 0 <= self.churn < math.inf:
            raise ValueError(f"EDMHeun: got churn={self.churn}, expected a number >= 0")
        if not 0 <= self.s_min <= self.s_max:
            raise ValueError(
                f"EDMHeun: got s_min={self.s_min}, s_max={self.s_max}, expected 0 <= s_min <= s_max in units "
                "of sigma/alpha; swap them"
            )
        if not 0 <= self.s_noise < math.inf:
            raise ValueError(
                f"EDMHeun: got s_noise={self.s_noise}, expected a number >= 0, 1 to keep the law"
            )

    @property
    def stochastic(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.churn > 0

    def step(self, b: Builder, i: int) -> None:
        start = self._noised(b, i)
        if start is None and not (b.finite(i) and b.finite(i + 1)):
            return b.first_order(i)
        rho_step(b, i, HEUN if b.finite(i + 1) else EULER, start=start)

    def _noised(self, b: Builder, i: int) -> tuple[float, float, float] | None:
        """Raise "x" from rho to rho^ and return its (t, alpha, rho), or None where there is nothing to add."""
        rho = b.rho(i)
        if not self.churn or not b.finite(i) or not self.s_min <= rho <= self.s_max:
            return None
        largest = math.exp(-float(b.process.lam(b.process.t_max)))
        hat = min((1 + min(self.churn / b.steps, math.sqrt(2) - 1)) * rho, largest)
        if hat <= rho:
            return None
        t, alpha, _ = b.at(-math.log(hat))
        # (hat - rho)(hat + rho) in place of the difference of squares: no cancellation at many steps
        b.combine(
            "x", (alpha / b.alpha[i], "x"), noise=alpha * self.s_noise * math.sqrt((hat - rho) * (hat + rho))
        )
        return t, alpha, hat
