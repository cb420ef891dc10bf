"""Reverse-SDE methods: SDE-DPM-Solver++, its first order on the noise prediction, and Euler-Maruyama."""

import math
from dataclasses import dataclass

from ..compiler import CAP, Builder, Method
from ..prediction import NOISE
from ..wanted import Limit
from .predictor_corrector import corrected_step
from .sa import SASolver
from .weights import phi


@dataclass(frozen=True)
class SDEDPMSolverPP(Method):
    """x_t = (sigma_t/sigma_s) e^{-h} x + alpha_t sum_j b_j D_{-j} + sigma_t sqrt(1 - e^{-2h}) xi,

        b_j = INT_0^1 2h e^{-2h(1-th)} L_j(th) dth

    over the last `nodes` data predictions: SASolver's predictor with tau = 1. Two nodes use the published
    weight w_0(2h)/2 in place of w_1(2h) unless `exact`. Steps that touch alpha = 0 or sigma = 0 are
    deterministic and first order.

    Order: weak 1, 2, 2 for `nodes` = 1, 2, 3; strong 1. Source: Lu et al. 2022, arXiv 2211.01095,
    SDE-DPM-Solver++(1) and (2M). Cost: 1 network call a step, nodes + 1 states, 1 noise.
    """

    nodes: int = 2
    exact: bool = False
    cap: Limit = CAP
    stochastic = True

    def __post_init__(self) -> None:
        if self.nodes not in (1, 2, 3):
            raise ValueError(
                f"SDEDPMSolverPP: got nodes={self.nodes!r}, expected 1, 2 or 3; more buy nothing"
            )

    @property
    def order(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return min(self.nodes, 2)

    def step(self, b: Builder, i: int) -> None:
        if self.nodes != 2 or self.exact or b.reach(i, 2, self.cap) < 2:
            return SASolver(self.nodes, 0, tau=1.0, cap=self.cap).step(b, i)
        h = b.lam[i + 1] - b.lam[i]
        level = b.alpha[i + 1] * phi(2 * h, 0)
        slope = level / 2 * h / (b.lam[i] - b.lam[i - 1])
        corrected_step(
            b,
            i,
            b.sigma[i + 1] / b.sigma[i] * math.exp(-h),
            [level + slope, -slope],
            noise=b.sigma[i + 1] * math.sqrt(-math.expm1(-2 * h)),
        )


@dataclass(frozen=True)
class SDEDPMSolver(Method):
    """x_t = (alpha_t/alpha_s) x - 2 sigma_t (e^h - 1) E + sigma_t sqrt(e^{2h} - 1) xi: the reverse SDE with E held.

    Steps that touch alpha = 0 or sigma = 0 are DDIM. Source: arXiv 2211.01095, SDE-DPM-Solver-1.
    Cost: 1 network call a step, 2 states, 1 noise.
    """

    order = 1
    stochastic = True

    def step(self, b: Builder, i: int) -> None:
        if not (b.finite(i) and b.finite(i + 1)):
            return b.first_order(i)
        h = b.lam[i + 1] - b.lam[i]
        noise = b.evaluate(f"E{i}", b.t[i], NOISE)
        b.combine(
            "x",
            (b.alpha[i + 1] / b.alpha[i], "x"),
            (-2 * b.sigma[i + 1] * math.expm1(h), noise),
            noise=b.sigma[i + 1] * math.sqrt(math.expm1(2 * h)),
        )


@dataclass(frozen=True)
class EulerMaruyama(Method):
    """x_t = x + (f x + (g^2/sigma) E)(t - s) + g sqrt(s - t) xi: Euler on dx = (f x - g^2 score) dt + g dw.

    f = alpha'/alpha and g^2 = 2 sigma (sigma' - f sigma) at s. Steps that touch alpha = 0 or sigma = 0 are
    DDIM. Source: Song et al. 2021, arXiv 2011.13456, eq. 6. Cost: 1 network call a step, 2 states, 1 noise.
    """

    order = 1
    stochastic = True

    def step(self, b: Builder, i: int) -> None:
        if not (b.finite(i) and b.finite(i + 1)):
            return b.first_order(i)
        f, g2 = float(b.process.f(b.t[i])), float(b.process.g2(b.t[i]))
        width = b.t[i + 1] - b.t[i]
        noise = b.evaluate(f"E{i}", b.t[i], NOISE)
        b.combine("x", (1 + f * width, "x"), (g2 / b.sigma[i] * width, noise), noise=math.sqrt(g2 * -width))
