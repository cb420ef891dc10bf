"""Stratonovich's integral of an equation of one's own: methods that see the diffusion at more than one point."""

from dataclasses import dataclass

from ..compiler import Builder
from .diffusion import DriftMethod, evaluated, increment


@dataclass(frozen=True)
class StratonovichHeun(DriftMethod):
    """x' = x + f h + g dw;  x <- x + half of that at x and half at x', of dx = f dt + g o dw.

    Order: weak 1, strong 1 (diagonal noise); 2 without noise. Cost: 2 network calls a step, 4 states.
    """

    order = 1

    def move(self, b: Builder, i: int, h: float) -> None:
        first = evaluated(b, f"k{i}", b.t[i], "x", (i,))
        b.combine(f"s{i}", (1.0, "x"), (increment(h), first))
        second = evaluated(b, f"l{i}", b.t[i + 1], f"s{i}", (i,))
        b.combine("x", (1.0, "x"), (increment(h, 0.5), first), (increment(h, 0.5), second))


@dataclass(frozen=True)
class StratonovichMidpoint(DriftMethod):
    """x' = x + (f h + g dw)/2;  x <- x + f h + g dw at x' and the time between, of dx = f dt + g o dw.

    Order: weak 1, strong 1 (diagonal noise); 2 without noise. Cost: 2 network calls a step, 3 states.
    """

    order = 1

    def move(self, b: Builder, i: int, h: float) -> None:
        first = evaluated(b, f"k{i}", b.t[i], "x", (i,))
        b.combine(f"s{i}", (1.0, "x"), (increment(h, 0.5), first))
        b.combine("x", (1.0, "x"), (increment(h), evaluated(b, f"l{i}", b.t[i] + h / 2, f"s{i}", (i,))))


@dataclass(frozen=True)
class StratonovichReversibleHeun(DriftMethod):
    """With y beside x and K_n(y) = f h_n + g dw_n at y and t_n, of dx = f dt + g o dw:

        y' = 2 x - y + K_n(y);  x' = x + (K_n(y) + K_n(y'))/2      K_n(y') with the increments of step n, at t_{n+1}

    held as x + K_n(y)/2 between the steps, so that each is undone instruction by instruction: `Reversible()` has exact
    gradients at two states, whatever the number of steps, and no step needs more than the sum of two increments.

    Order: weak 1, strong 1 (diagonal noise); 2 without noise. Source: Kidger et al. 2021, arXiv 2105.13493, algorithm
    1. Cost: 1 network call a step and one more, 3 states.
    """

    order = 1
    staggered = True

    def move(self, b: Builder, i: int, h: float) -> None:
        if i == 0:
            b.combine("y", (1.0, "x"))
            b.combine("x", (1.0, "x"), (increment(h, 0.5), evaluated(b, "k0", b.t[0], "y", (0,))))
        b.combine("y", (2.0, "x"), (-1.0, "y"))
        last = i + 1 == b.steps
        ahead = (i,) if last else (i, i + 1)
        width = h if last else b.t[i + 2] - b.t[i]
        b.combine("x", (1.0, "x"), (increment(width, 0.5), evaluated(b, f"k{i + 1}", b.t[i + 1], "y", ahead)))
