"""Flow methods: Runge-Kutta and Adams-Bashforth on dx/dt = u, u = alpha' x_0 + sigma' eps."""

from dataclasses import dataclass

from ..compiler import Builder, Method
from ..prediction import FLOW
from .runge_kutta import BY_ORDER, EULER, HEUN, MIDPOINT, time_step
from .weights import plain_weights


@dataclass(frozen=True)
class FlowEuler(Method):
    """x_t = x_s + (t - s) u. On the rectified path exactly DDIM. Cost: 1 network call a step."""

    order = 1

    def step(self, b: Builder, i: int) -> None:
        time_step(b, i, EULER, FLOW)


@dataclass(frozen=True)
class FlowMidpoint(Method):
    """x_t = x_s + (t - s) u(x_s + (t - s)/2 u_s, (s + t)/2). Cost: 2 network calls a step."""

    order = 2

    def step(self, b: Builder, i: int) -> None:
        time_step(b, i, MIDPOINT, FLOW)


@dataclass(frozen=True)
class FlowHeun(Method):
    """x_t = x_s + (t - s) (u_s + u_t)/2, u_t at the Euler point. Cost: 2 network calls a step."""

    order = 2

    def step(self, b: Builder, i: int) -> None:
        time_step(b, i, HEUN, FLOW)


@dataclass(frozen=True)
class FlowAdams(Method):
    """x_t = x_s + (t - s) sum_j b_j u_{-j}, b_j = INT_0^1 L_j: variable-step Adams-Bashforth of order 1 to 4.

    With `starter` the first steps are Runge-Kutta of the same order. Cost: 1 network call a step, order + 1
    states.
    """

    order: int = 2
    starter: bool = False

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3, 4):
            raise ValueError(f"FlowAdams: got order={self.order!r}, expected 1 to 4; take one of them")

    def step(self, b: Builder, i: int) -> None:
        first = b.evaluate(f"u{i}", b.t[i], FLOW)
        order = min(self.order, i + 1)
        if self.starter and order < self.order:
            return time_step(b, i, BY_ORDER[self.order], FLOW, first)
        h = b.t[i + 1] - b.t[i]
        weights = plain_weights([(b.t[i - j] - b.t[i]) / h for j in range(order)])
        b.combine("x", (1.0, "x"), *((h * w, f"u{i - j}") for j, w in enumerate(weights)))
