"""The flow of any model as an SDE with the same marginals, noise of any strength, in both directions."""

import math
from dataclasses import dataclass

from ..compiler import Builder, Method
from ..drift import Drift, FlowNoise, drift_of
from ..process import as_time


@dataclass(frozen=True)
class StochasticFlow(Method):
    """x_t = x + (u -+ eps score)(t - s) + sqrt(2 eps |t - s|) xi, eps = eps(s): Euler on dx = (u -+ eps score) dt +
    sqrt(2 eps) dw.

    Minus where t falls from noise to data, plus where it rises. By the Fokker-Planck equation eps laplace p = eps
    div(p score), so what the noise spreads the score's share of the drift takes back, and the law at every time is
    the flow's, whatever eps(t) >= 0. eps = 0 is FlowEuler. Every step draws noise, the last one too: a function that
    vanishes at the end leaves none in the sample.

    Other methods are this one: `FlowSDE(a)` is `OwnNoise(a/sqrt(2))`, `ConstantFlowSDE(eta)` is eta^2/2, and
    `EulerMaruyama` is `OwnNoise()` between its ends.

    Args:
        strength: eps, a number >= 0, a function of t (a float64 tensor of any shape) or `OwnNoise(tau)`. For plans
            that pickle a frozen dataclass with `__call__`.

    Order: weak 1, strong 1. Raises ValueError where eps is negative or not finite. Source: Albergo, Boffi and
    Vanden-Eijnden 2023, arXiv 2303.08797, section 2. Cost: 1 network call a step, 2 states, 1 noise.
    """

    strength: FlowNoise
    order = 1
    both_ways = True

    @property
    def stochastic(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.strength != 0

    def step(self, b: Builder, i: int) -> None:
        width = b.t[i + 1] - b.t[i]
        want = drift_of(self.strength, math.copysign(1.0, width))
        assert isinstance(want.row, Drift)
        eps = float(want.row.eps(b.process, as_time(b.t[i])))
        if not 0 <= eps < math.inf:
            raise ValueError(
                f"{self}: got eps={eps} at t={b.t[i]:.6g}, expected a finite number >= 0; start the grid inside the "
                "process, or take a strength that is finite there"
            )
        b.combine(
            "x", (1.0, "x"), (width, b.evaluate(f"b{i}", b.t[i], want)), noise=math.sqrt(2 * eps * abs(width))
        )
