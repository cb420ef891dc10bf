"""Reduced splitting integrators: position and momentum by turns, one score for two of them."""

import math
from dataclasses import dataclass

from ..compiler import Builder
from ..linear_map import Mixing
from .method import PhaseMethod, score
from .parts import MOMENTUM, POSITION, EulerParts, Part, Parts
from .process import PhaseSpaceLangevin


def move_part(b: Builder, parts: Parts, part: Part, at: str) -> None:
    """Emit x <- the part's solution with the score in register `at`."""
    state, push = parts.matrices(part)
    scored = bool(push.values.any())  # CLD's position has no score
    b.combine("x", (state, "x"), *([(push, at)] if scored else []))


@dataclass(frozen=True)
class ReducedVerlet(PhaseMethod):
    """The flow by velocity Verlet, half a step of the momentum on either side of one of the position:

        m <- m + (h/4) (x + nu m + M nu score_m)                    score at (x, m), s
        x <- x + (h/2) (gamma x - m/M + gamma score_x)              the same score, the new m
        m <- m + (h/4) (x + nu m + M nu score_m)                    score at the new (x, m), t

    "Reduced" as one score serves two updates and the last is taken at the time it arrives at; by `ConjugateParts` each
    line is its linear equation's exact solution, noise prediction constant.

    Order 1, written from the paper's description: Verlet's second order is lost as the force depends on m itself. With
    f = dm/du' a step leaves m short by (h^2/4) (df/dm) f, and x short by (h^2/4) gamma d(x + score_x)/du' (nothing
    for CLD). `SSCS(2, Reverse.ODE)` is the splitting of second order at the same cost.

    Source: Pandey et al. 2024, arXiv 2310.07894, section 4 (RVV). Cost: 2 network calls a step, 3 states.
    """

    parts: Parts = EulerParts()
    order = 1

    def move(self, b: Builder, i: int, process: PhaseSpaceLangevin, h: float) -> None:
        start = float(process.clock(b.t[i]))
        first = score(b, i, "", b.t[i])
        move_part(b, self.parts, Part(process, MOMENTUM, start, h / 2, 0.5, seen=start), first)
        move_part(b, self.parts, Part(process, POSITION, start, h, 0.5, seen=start), first)
        last = score(b, i, "m", b.t[i + 1])
        move_part(b, self.parts, Part(process, MOMENTUM, start - h / 2, h / 2, 0.5, seen=start - h), last)


@dataclass(frozen=True)
class ReducedOBA(PhaseMethod):
    """The reverse SDE in three moves, of which the last two share one score:

        O   x <- e^{-gamma h/2} x + sqrt(1 - e^{-gamma h}) xi,  m <- e^{-nu h/2} m + sqrt(M (1 - e^{-nu h})) xi
        B   m <- m + h (x/2 + nu m + M nu score_m)                  score at the (x, m) that O left, time s
        A   x <- x + h (gamma x - m/(2M) + gamma score_x)           the same score, the new m

    O is the damping and the noise, exactly; B and A the rest, by Euler or by `ConjugateParts`. Lie and Trotter's
    splitting: weak order 1, also with the score at t, which by Euler was 1.1 to 3.4 times as far on Gaussian data.

    Source: the idea of Pandey et al. 2024, arXiv 2310.07894 and 2402.07211 (ROBA; conjugate OBA), the formulas derived
    here from the equation. The paper also tunes the position's noise, which is left out: it changes the law that is
    sampled. Cost: 1 network call and 1 noise a step, 2 states.
    """

    parts: Parts = EulerParts()
    order = 1
    stochastic = True

    def move(self, b: Builder, i: int, process: PhaseSpaceLangevin, h: float) -> None:
        frictions, rest = (process.gamma, process.nu), (1.0, process.mass)
        kept, drawn = [[0.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]
        for half, (friction, variance) in enumerate(zip(frictions, rest, strict=True)):
            kept[half][half] = math.exp(-friction * h / 2)
            drawn[half][half] = math.sqrt(-variance * math.expm1(-friction * h))
        b.combine("x", (Mixing(kept), "x"), noise=Mixing(drawn))
        start = float(process.clock(b.t[i]))
        shared = score(b, i, "", b.t[i])
        for half in (MOMENTUM, POSITION):
            move_part(b, self.parts, Part(process, half, start, h, 1.0, seen=start), shared)
