"""SA-Solver: exponential Adams predictor and corrector for the reverse SDE family with noise strength tau."""

import math
from dataclasses import dataclass

from ..compiler import CAP, Builder, Method
from ..wanted import Limit
from .dpm import DPMSolverPPSingle
from .predictor_corrector import CorrectorMode, corrected_step
from .tau import NoiseStrength, check_tau, has_noise, mean_square
from .weights import data_weights


@dataclass(frozen=True)
class SASolver(Method):
    """x_t = (sigma_t/sigma_s) e^{-tau^2 h} x + sum_j b_j D_{-j} + sigma_t sqrt(1 - e^{-2 tau^2 h}) xi,

        b_j = alpha_t INT_s^t c e^{-c (lambda_t - u)} L_j(u) du,  c = 1 + tau^2

    `predictor` counts the data predictions in L_j, `corrector` those of the corrector with the new one (0:
    none); both use one xi. tau = 0 is the probability flow, 1 the reverse SDE; a function tau(lambda) enters
    by the mean of tau^2 over each step and must pickle if the plan's method is to (`Tau` is a band of
    levels). Steps that touch alpha = 0 or sigma = 0 are deterministic and first order; a step more than `cap`
    times the mean of those behind it uses one past node. `starter` (tau = 0 only) begins with single steps of
    the same order.

    Order with tau = 0: `predictor`, or min(predictor + 1, corrector); otherwise weak order, at most 2, and
    strong order 1. Source: Xue et al. 2023, arXiv 2309.05019, section 4. Cost: 1 network call a step with
    PEC, 2 with PECE.
    """

    predictor: int = 3
    corrector: int = 4
    tau: NoiseStrength = 1.0
    evaluation: CorrectorMode = CorrectorMode.PEC
    starter: bool = False
    cap: Limit = CAP

    def __post_init__(self) -> None:
        if self.predictor not in (1, 2, 3, 4):
            raise ValueError(f"SASolver: got predictor={self.predictor}, expected 1 to 4")
        if self.corrector not in (0, 1, 2, 3, 4):
            raise ValueError(f"SASolver: got corrector={self.corrector}, expected 0 (none) to 4")
        check_tau("SASolver", self.tau)
        if not isinstance(self.evaluation, CorrectorMode):
            raise ValueError(
                f"SASolver: got evaluation={self.evaluation!r}, expected a CorrectorMode, such as "
                "CorrectorMode.PEC"
            )
        if self.evaluation is CorrectorMode.PECE and not self.corrector:
            raise ValueError(
                "SASolver: got PECE without a corrector, expected corrector >= 1; use CorrectorMode.PEC"
            )
        if self.starter and self.stochastic:
            raise ValueError(
                "SASolver: got starter=True with noise, expected tau=0; weak order 2 needs no starter"
            )

    @property
    def stochastic(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return has_noise(self.tau)

    @property
    def order(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        order = min(self.predictor + 1, self.corrector) if self.corrector else self.predictor
        return min(order, 2) if self.stochastic else order

    def step(self, b: Builder, i: int) -> None:
        if not (b.finite(i) and b.finite(i + 1)):
            return b.first_order(i)
        if self.starter and i < self.predictor - 1:
            return DPMSolverPPSingle(min(self.predictor, 3)).step(b, i)
        h = b.lam[i + 1] - b.lam[i]
        square = mean_square(self.tau, b.lam[i], b.lam[i + 1])
        reach = b.reach(i, max(self.predictor, self.corrector - 1), self.cap)
        past = [(b.lam[i - j] - b.lam[i]) / h for j in range(reach)]

        def weights(nodes: list[float]) -> list[float]:
            return [b.alpha[i + 1] * w for w in data_weights((1 + square) * h, nodes)]

        predict = weights(past[: self.predictor])
        correct = weights([1.0, *past][: self.corrector]) if self.corrector else []
        # the two factors of the noise as one expm1: no cancellation at small h
        corrected_step(
            b,
            i,
            b.sigma[i + 1] / b.sigma[i] * math.exp(-square * h),
            predict,
            correct,
            noise=b.sigma[i + 1] * math.sqrt(-math.expm1(-2 * square * h)) if square else 0.0,
            again=self.evaluation is CorrectorMode.PECE,
        )
