"""MRS: exponential integrators of first and second order, of the flow or the reverse SDE, in either prediction."""

import math
from dataclasses import dataclass
from enum import Enum
from typing import Annotated

from ..compiler import CAP, Builder, Method
from ..prediction import DATA, NOISE, Prediction
from ..wanted import Limit, Wanted
from .dpm import DPMSolverPP
from .sde import SDEDPMSolverPP
from .weights import phi


class Reverse(Enum):
    """Which equation from noise to data is solved."""

    ODE = "the probability flow"
    SDE = "the reverse SDE"

    def __repr__(self) -> str:
        return self.name


@dataclass(frozen=True)
class MRS(Method):
    """With h = lambda_t - lambda_s, the slope P' = (P_s - P_before)/h_before of a prediction P (order 1: P' = 0), and
    k = 1 for the ODE, 2 for the SDE:

        DATA   x_t = (sigma_t/sigma_s) e^{-(k-1)h} x + alpha_t ((1 - e^{-kh}) D + (h - (1 - e^{-kh})/k) D')
        NOISE  x_t = (alpha_t/alpha_s) x - k sigma_t ((e^h - 1) E + (e^h - 1 - h) E')

    and for the SDE a noise of deviation sigma_t sqrt(1 - e^{-2h}), or sigma_t sqrt(e^{2h} - 1) with E. On
    `MeanReverting`, in x = y + (1 - alpha) mu, these are the MR Sampler's updates with their terms in mu; here they are
    methods for any process. DATA is `DPMSolverPP` and `SDEDPMSolverPP` with exact weights, and what to use: E grows
    with e^h. Steps that touch alpha = 0 or sigma = 0, and steps more than `cap` times those before, are first order.

    Order: `order`, with noise in the weak sense. Source: Li et al. 2025, arXiv 2502.07856, the second order derived
    here from its integral with P linear in lambda. Cost: 1 network call a step, order + 1 states.
    """

    order: Annotated[int, Wanted("1 or 2", lambda value: value in (1, 2))] = 2
    want: Prediction = DATA
    reverse: Reverse = Reverse.ODE
    cap: Limit = CAP

    def __post_init__(self) -> None:
        if self.want not in (DATA, NOISE) or not isinstance(self.reverse, Reverse):
            raise ValueError(
                f"MRS: got want={self.want!r}, reverse={self.reverse!r}, expected DATA or NOISE, Reverse.ODE or "
                "Reverse.SDE"
            )

    @property
    def stochastic(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.reverse is Reverse.SDE

    def step(self, b: Builder, i: int) -> None:
        if self.want == DATA and self.stochastic:
            return SDEDPMSolverPP(self.order, exact=True, cap=self.cap).step(b, i)
        if self.want == DATA:
            return DPMSolverPP(self.order, exact=True, cap=self.cap).step(b, i)
        if not (b.finite(i) and b.finite(i + 1)):
            return b.first_order(i)
        h = b.lam[i + 1] - b.lam[i]
        size = (2 if self.stochastic else 1) * b.sigma[i + 1]
        level, slope = math.expm1(h), -phi(-h, 1) * h  # e^h - 1 and e^h - 1 - h
        terms = [(-size * level, b.evaluate(f"E{i}", b.t[i], NOISE))]
        if b.reach(i, self.order, self.cap) == 2:
            bend = size * slope / (b.lam[i] - b.lam[i - 1])
            terms = [(terms[0][0] - bend, f"E{i}"), (bend, f"E{i - 1}")]
        noise = b.sigma[i + 1] * math.sqrt(math.expm1(2 * h)) if self.stochastic else 0.0
        b.combine("x", (b.alpha[i + 1] / b.alpha[i], "x"), *terms, noise=noise)
