"""Ito's integral of an equation of one's own."""

from dataclasses import dataclass

from ..compiler import Builder
from .diffusion import DriftMethod, evaluated, increment


@dataclass(frozen=True)
class ItoEuler(DriftMethod):
    """Euler-Maruyama, x <- x + f h + g dw, of dx = f dt + g dw in Ito's sense.

    Order: weak 1; strong 1/2, 1 where g does not depend on x. Cost: 1 network call a step, 3 states.
    """

    order = 1

    def move(self, b: Builder, i: int, h: float) -> None:
        b.combine("x", (1.0, "x"), (increment(h), evaluated(b, f"k{i}", b.t[i], "x", (i,))))
