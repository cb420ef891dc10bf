"""EDM's Heun sampler."""

from dataclasses import dataclass

from .compiler import Builder, Method
from .runge_kutta import HEUN, rho_step


@dataclass(frozen=True)
class EDMHeun(Method):
    """Heun on dy/drho = E, y = x/alpha, rho = sigma/alpha; Euler where a step touches alpha = 0 or sigma = 0.

    Source: Karras et al. 2022, arXiv 2206.00364, algorithm 1. Cost: 2 network calls a step, 1 for an Euler step.
    """

    order = 2

    def step(self, b: Builder, i: int) -> None:
        if b.finite(i) and b.finite(i + 1):
            rho_step(b, i, HEUN)
        else:
            b.first_order(i)
