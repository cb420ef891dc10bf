"""Explicit Runge-Kutta steps as plan rows, in any clock: dy/dclock = f, y = scale * x."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from ..compiler import Builder
from ..prediction import NOISE, Prediction


@dataclass(frozen=True)
class Tableau:
    """Butcher tableau of an explicit Runge-Kutta method: stage k starts from row k of `a`, `b` is the step.

    Args:
        name: as it prints.
        a: rows of 0, 1, 2, ... numbers.
        b: as many numbers as rows, of sum 1.
        order: of convergence.
    """

    name: str
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    order: int

    def __post_init__(self) -> None:
        lengths = tuple(len(row) for row in self.a)
        if lengths != tuple(range(len(self.b))) or not self.b or abs(math.fsum(self.b) - 1) > 1e-9:
            raise ValueError(
                f"Tableau: got rows of {lengths} numbers and b={self.b}, expected rows of 0, 1, 2, ... numbers, and "
                "as many in b with sum 1; write an explicit method, its rows without the zeros"
            )

    @property
    def c(self) -> tuple[float, ...]:
        return tuple(sum(row, 0.0) for row in self.a)

    def __repr__(self) -> str:
        return self.name


EULER = Tableau("EULER", ((),), (1.0,), 1)
MIDPOINT = Tableau("MIDPOINT", ((), (0.5,)), (0.0, 1.0), 2)
HEUN = Tableau("HEUN", ((), (1.0,)), (0.5, 0.5), 2)
KUTTA3 = Tableau("KUTTA3", ((), (0.5,), (-1.0, 2.0)), (1 / 6, 2 / 3, 1 / 6), 3)
RK4 = Tableau("RK4", ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6), 4)
DOPRI5 = Tableau(
    "DOPRI5",
    (
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    ),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    5,
)
"""Dormand and Prince's fifth order, without its error estimate."""
BY_ORDER = {tableau.order: tableau for tableau in (EULER, HEUN, KUTTA3, RK4, DOPRI5)}


def rho_step(
    b: Builder,
    i: int,
    tableau: Tableau,
    first: str | None = None,
    start: tuple[float, float, float] | None = None,
) -> None:
    """One step of dy/drho = E with y = x/alpha: the clock of EDM and of DEIS' rhoRK.

    `start` is the (t, alpha, rho) of "x" where that is not node i.
    """
    at, scale, low = start or (b.t[i], b.alpha[i], b.rho(i))
    high = b.rho(i + 1)

    def node(c: float) -> tuple[float, float]:
        if c == 0.0:
            return at, scale
        if c == 1.0:
            return b.t[i + 1], b.alpha[i + 1]
        level = low + c * (high - low)
        t = b.process.time(-math.log(level))
        return float(t), float(b.process.alpha(t))

    _step(b, i, tableau, high - low, node, NOISE, first)


def rho_step_from_data(b: Builder, i: int, tableau: Tableau) -> None:
    """The same, of which E at node i comes from the data prediction there, D{i}: that stays for later steps."""
    b.combine(f"E{i}", (1 / b.sigma[i], "x"), (-b.alpha[i] / b.sigma[i], b.data(i)))
    rho_step(b, i, tableau, f"E{i}")


def time_step(b: Builder, i: int, tableau: Tableau, want: Prediction, first: str | None = None) -> None:
    """One step of dx/dt = u: the clock of flow models."""
    width = b.t[i + 1] - b.t[i]
    _step(b, i, tableau, width, lambda c: (b.t[i] + c * width if c < 1 else b.t[i + 1], 1.0), want, first)


def _step(
    b: Builder,
    i: int,
    tableau: Tableau,
    width: float,
    node: Callable[[float], tuple[float, float]],
    want: Prediction,
    first: str | None,
) -> None:
    """Emit a step of clock length `width`; `node(c)` is the (t, scale) at its fraction c, `first` a prediction at c = 0
    that is there already. Written in x = scale y, so that no register holds y.
    """
    _, scale = node(0.0)
    outs: list[str] = []
    for k, (row, c) in enumerate(zip(tableau.a, tableau.c, strict=True)):
        t, alpha = node(c)
        if k == 0:
            outs.append(first or b.evaluate(f"k{i}", t, want))
            continue
        stage = f"s{i}_{k}"
        b.combine(
            stage,
            (alpha / scale, "x"),
            *((alpha * width * w, out) for w, out in zip(row, outs, strict=False)),
        )
        outs.append(b.evaluate(f"k{i}_{k}", t, want, stage))
    _, alpha = node(1.0)
    b.combine(
        "x", (alpha / scale, "x"), *((alpha * width * w, out) for w, out in zip(tableau.b, outs, strict=True))
    )
