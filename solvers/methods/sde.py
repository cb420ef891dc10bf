"""Reverse-SDE methods: SDE-DPM-Solver++, its first order on the noise prediction, and Euler-Maruyama."""

import math
from dataclasses import dataclass

from ..compiler import CAP, Builder, Method
from ..prediction import NOISE
from ..wanted import Limit
from .predictor_corrector import corrected_step
from .sa import SASolver
from .tau import NoiseStrength, check_tau, has_noise, mean_square
from .weights import phi


@dataclass(frozen=True)
class SDEDPMSolverPP(Method):
    """x_t = (sigma_t/sigma_s) e^{-tau^2 h} x + alpha_t sum_j b_j D_{-j} + sigma_t sqrt(1 - e^{-2 tau^2 h}) xi,

        b_j = INT_0^1 H e^{-H(1-th)} L_j(th) dth,  H = (1 + tau^2) h

    over the last `nodes` data predictions: SASolver's predictor. Two nodes use the published weight w_0(H)/2 in
    place of w_1(H) unless `exact`. tau = 1 is the paper's; k-diffusion's eta is tau^2. Steps that touch alpha = 0
    or sigma = 0 are deterministic and first order.

    Order: weak 1, 2, 2 for `nodes` = 1, 2, 3; strong 1; with tau = 0 that of DPMSolverPP. Source: Lu et al. 2022,
    arXiv 2211.01095, SDE-DPM-Solver++(1) and (2M). Cost: 1 network call a step, nodes + 1 states, 1 noise.
    """

    nodes: int = 2
    exact: bool = False
    cap: Limit = CAP
    tau: NoiseStrength = 1.0

    def __post_init__(self) -> None:
        if self.nodes not in (1, 2, 3):
            raise ValueError(
                f"SDEDPMSolverPP: got nodes={self.nodes!r}, expected 1, 2 or 3; more buy nothing"
            )
        check_tau("SDEDPMSolverPP", self.tau)

    @property
    def stochastic(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return has_noise(self.tau)

    @property
    def order(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return min(self.nodes, 2) if self.stochastic else self.nodes

    def step(self, b: Builder, i: int) -> None:
        if self.nodes != 2 or self.exact or b.reach(i, 2, self.cap) < 2:
            return SASolver(self.nodes, 0, tau=self.tau, cap=self.cap).step(b, i)
        h = b.lam[i + 1] - b.lam[i]
        square = mean_square(self.tau, b.lam[i], b.lam[i + 1])
        level = b.alpha[i + 1] * phi((1 + square) * h, 0)
        slope = level / 2 * h / (b.lam[i] - b.lam[i - 1])
        corrected_step(
            b,
            i,
            b.sigma[i + 1] / b.sigma[i] * math.exp(-square * h),
            [level + slope, -slope],
            noise=b.sigma[i + 1] * math.sqrt(-math.expm1(-2 * square * h)) if square else 0.0,
        )


@dataclass(frozen=True)
class SDEDPMSolver(Method):
    """x_t = (alpha_t/alpha_s) x - (1 + tau^2) sigma_t (e^h - 1) E + tau sigma_t sqrt(e^{2h} - 1) xi: the reverse
    SDE with E held.

    Steps that touch alpha = 0 or sigma = 0 are DDIM. Source: arXiv 2211.01095, SDE-DPM-Solver-1, which has tau = 1.
    Cost: 1 network call a step, 2 states, 1 noise.
    """

    tau: NoiseStrength = 1.0
    order = 1

    def __post_init__(self) -> None:
        check_tau("SDEDPMSolver", self.tau)

    @property
    def stochastic(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return has_noise(self.tau)

    def step(self, b: Builder, i: int) -> None:
        if not (b.finite(i) and b.finite(i + 1)):
            return b.first_order(i)
        h = b.lam[i + 1] - b.lam[i]
        square = mean_square(self.tau, b.lam[i], b.lam[i + 1])
        noise = b.evaluate(f"E{i}", b.t[i], NOISE)
        b.combine(
            "x",
            (b.alpha[i + 1] / b.alpha[i], "x"),
            (-(1 + square) * b.sigma[i + 1] * math.expm1(h), noise),
            noise=b.sigma[i + 1] * math.sqrt(square * math.expm1(2 * h)),
        )


@dataclass(frozen=True)
class EulerMaruyama(Method):
    """x_t = x + (f x + (1 + tau^2)/2 (g^2/sigma) E)(t - s) + tau g sqrt(s - t) xi: Euler on
    dx = (f x - (1 + tau^2)/2 g^2 score) dt + tau g dw.

    f = alpha'/alpha and g^2 = 2 sigma (sigma' - f sigma) at s. Steps that touch alpha = 0 or sigma = 0 are
    DDIM. Source: Song et al. 2021, arXiv 2011.13456, eq. 6, which has tau = 1. Cost: 1 network call a step, 2
    states, 1 noise.
    """

    tau: NoiseStrength = 1.0
    order = 1

    def __post_init__(self) -> None:
        check_tau("EulerMaruyama", self.tau)

    @property
    def stochastic(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return has_noise(self.tau)

    def step(self, b: Builder, i: int) -> None:
        if not (b.finite(i) and b.finite(i + 1)):
            return b.first_order(i)
        f, g2 = float(b.process.f(b.t[i])), float(b.process.g2(b.t[i]))
        width = b.t[i + 1] - b.t[i]
        square = mean_square(self.tau, b.lam[i], b.lam[i + 1])
        noise = b.evaluate(f"E{i}", b.t[i], NOISE)
        b.combine(
            "x",
            (1 + f * width, "x"),
            ((1 + square) / 2 * g2 / b.sigma[i] * width, noise),
            noise=math.sqrt(square * g2 * -width),
        )
