"""DDBM's sampler: a part of each step along the reverse SDE, the rest by Heun along the flow."""

import math
from dataclasses import dataclass
from typing import Annotated

from ..compiler import Builder, Method
from ..prediction import DATA
from ..wanted import Wanted
from .runge_kutta import EULER, HEUN, rho_step


@dataclass(frozen=True)
class HybridHeun(Method):
    """A step from t_i goes to t^ = t_i + churn (t_{i+1} - t_i) by the ancestral step of DDIM(1), from there by Heun on
    dy/drho = E, or Euler to sigma = 0.

    The way a `DiffusionBridge` is sampled by its authors: the flow cannot start at the pinned end, the SDE can. They
    take Euler steps of x in t for both parts; here the linear part is exact, and what D does between the nodes is the
    only error.

    Order: weak 1, by the ancestral part; that part is `churn` of each step, and so is its error. Source: Zhou et al.
    2023, arXiv 2309.16948, algorithm 1. Cost: 3 network calls a step, 2 for the one to sigma = 0; 1 noise.
    """

    churn: Annotated[float, Wanted("a number in (0, 1)", lambda value: 0 < value < 1)] = 0.33
    order = 1
    stochastic = True

    def step(self, b: Builder, i: int) -> None:
        t = b.t[i] + self.churn * (b.t[i + 1] - b.t[i])
        lam, alpha, sigma = (float(f(t)) for f in (b.process.lam, b.process.alpha, b.process.sigma))
        if not (math.isfinite(lam) and b.sigma[i]):
            return b.first_order(i)
        fresh = -math.expm1(2 * (b.lam[i] - lam))  # 1 from alpha = 0, where all noise is new
        ratio = sigma * math.sqrt(1 - fresh) / b.sigma[i]
        data = b.evaluate(f"D{i}", b.t[i], DATA)
        b.combine("x", (ratio, "x"), (alpha - b.alpha[i] * ratio, data), noise=sigma * math.sqrt(fresh))
        rho_step(b, i, HEUN if b.finite(i + 1) else EULER, start=(t, alpha, math.exp(-lam)))
