"""SEEDS: exponential single-step solvers of the reverse SDE whose stages lie on one noise path."""

import math
from dataclasses import dataclass
from numbers import Integral
from typing import Annotated

from ..compiler import Builder, Method
from ..prediction import DATA, NOISE, Prediction
from ..wanted import OWN_WORDS
from .tau import NoiseStrength, check_tau, has_noise, mean_square
from .weights import phi

STAGES = {1: (1.0,), 2: (1 / 2, 1.0), 3: (1 / 3, 2 / 3, 1.0)}


@dataclass(frozen=True)
class SEEDS(Method):
    """DPM-Solver++(1, 2S, 3S) for the reverse SDE, at fractions r of the step: u_1 at 1/2, or u_1, u_2 at 1/3, 2/3.

        u_k = d_k + N(r_k),  x_t = d + N(1)                                       H = (1 + tau^2) h
        data side   d: (sigma/sigma_s) e^{-tau^2 r h} x + alpha (w_0(rH) D_s + ...)
        noise side  d: (alpha/alpha_s) x - (1 + tau^2) sigma (v_0(rh) E_s + ...)

    with the slopes of 2S ("midpoint") and 3S in "...", and alpha, sigma of the point that is stepped to. N(r), the
    noise of an exact step to there, is an Ornstein-Uhlenbeck path: N(1) is N(1/2), decayed, plus a fresh increment.
    Draws that are independent of the stages' leave weak order 1. Here each point is therefore stepped to from the
    one before, by the difference of their formulas:

        u_k = c u_{k-1} + sum_j (b_kj - c b_{k-1,j}) D_j + fresh noise,    c the decay between the two

    tau = 0 is DPMSolverPPSingle on the data side, the noise-side DPM-Solver (KDPM2 with two stages) on the other.
    Steps that touch alpha = 0 or sigma = 0 are deterministic and first order.

    Order: weak 1, 2, 2 for `stages` = 1, 2, 3, strong 1; without noise `stages`. Source: Gonzalez et al. 2023, arXiv
    2305.14267; on the data side two stages are k-diffusion's dpmpp_sde. Formulas derived here. Cost: `stages`
    network calls and noises a step.

    Args:
        side: DATA or NOISE, the prediction that is held fixed.
        tau: strength of the noise, as everywhere; the paper's is 1.
    """

    stages: Annotated[int, OWN_WORDS] = 2
    side: Prediction = DATA
    tau: NoiseStrength = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.stages, Integral) or self.stages not in (1, 2, 3):
            raise ValueError(f"SEEDS: got stages={self.stages!r}, expected 1, 2 or 3")
        if self.side not in (DATA, NOISE):
            raise ValueError(f"SEEDS: got side={self.side}, expected DATA or NOISE")
        check_tau("SEEDS", self.tau)

    @property
    def stochastic(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return has_noise(self.tau)

    @property
    def order(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return min(self.stages, 2) if self.stochastic else self.stages

    def step(self, b: Builder, i: int) -> None:
        if not (b.finite(i) and b.finite(i + 1)):
            return b.first_order(i)
        h = b.lam[i + 1] - b.lam[i]
        square = mean_square(self.tau, b.lam[i], b.lam[i + 1])
        here, register, passed = (b.t[i], b.alpha[i], b.sigma[i]), "x", 0.0
        held, before = list[str](), list[float]()
        for k, r in enumerate(STAGES[self.stages], 1):
            held.append(
                b.evaluate(f"{'D' if self.side == DATA else 'E'}{i}_{k}", here[0], self.side, register)
            )
            last, source = k == self.stages, register
            there = (b.t[i + 1], b.alpha[i + 1], b.sigma[i + 1]) if last else b.at(b.lam[i] + r * h)
            decay, fresh = self._noise(here, there, square, (r - passed) * h)
            weights = self._weights(k, *self._gains(there, square, r * h))
            change = [w - decay * old for w, old in zip(weights, [*before, 0.0], strict=True)]
            register = "x" if last else f"s{i}_{k}"
            b.combine(register, (decay, source), *zip(change, held, strict=True), noise=fresh)
            here, passed, before = there, r, weights

    def _noise(
        self, here: tuple[float, float, float], there: tuple[float, float, float], square: float, width: float
    ) -> tuple[float, float]:
        """(decay of what is there, fresh noise) from one (t, alpha, sigma) to another, `width` apart in lambda."""
        if self.side == DATA:
            decay = there[2] / here[2] * math.exp(-square * width)
            return decay, there[2] * math.sqrt(-math.expm1(-2 * square * width))
        return there[1] / here[1], there[2] * math.sqrt(square * math.expm1(2 * width))

    def _gains(self, there: tuple[float, float, float], square: float, width: float) -> tuple[float, float]:
        """On a constant prediction, and on one that grows from 0 to 1, over `width` from the start of the step."""
        if self.side == DATA:
            return there[1] * phi((1 + square) * width, 0), there[1] * phi((1 + square) * width, 1)
        scale = (1 + square) * there[2]  # -v_n(h) = w_n(-h)
        return scale * phi(-width, 0), scale * phi(-width, 1)

    def _weights(self, k: int, level: float, bend: float) -> list[float]:
        """Of the predictions so far, in the k-th point counted from the start of the step."""
        if k == 1:
            return [level]
        if self.stages == 2:
            return [0.0, level]
        slope = (2.0 if k == 2 else 1.5) * bend  # r_2/r_1 and 1/r_2
        return [level - slope, *[0.0] * (k - 2), slope]
