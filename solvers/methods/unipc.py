"""UniPC: the unified predictor-corrector on the data prediction."""

from dataclasses import dataclass
from enum import Enum

from ..compiler import CAP, Builder, Method
from ..wanted import Limit
from .dpm_single import DPMSolverPPSingle
from .predictor_corrector import corrected_step
from .runge_kutta import BY_ORDER, rho_step_from_data
from .weights import data_weights, phi


class BVariant(Enum):
    """What a formula of one unknown takes for a: BH1 and BH2 the short-cut 1/2, with B(h) of -h and of e^{-h} - 1;
    EXACT the solution.

    B cancels wherever the system is solved, so the three differ in formulas of two nodes alone: the predictor of
    order 2 and the first corrector.
    """

    BH1 = "bh1"
    BH2 = "bh2"
    EXACT = "exact"

    def __repr__(self) -> str:
        return self.name


@dataclass(frozen=True)
class UniPC(Method):
    """x_t = (sigma_t/sigma_s) x + alpha_t w_0 D_0 - alpha_t B sum_m a_m (D_m - D_0)/r_m,   r_m = (lambda_{-m}
    - lambda_s)/h,

        sum_m a_m r_m^{n-1} = -n! w_n / B,  n = 1 .. number of unknowns,  w_n = INT_0^1 h e^{-h(1-th)} th^n/n! dth

    UniP of order p = `predictor`, 1 to 5, has m = 1 .. p - 1; UniC adds r_p = 1 with D at the predicted point, which
    is kept (PEC). One unknown takes a = 1/2 in place of its solution, but for `BVariant.EXACT`: what the paper's
    third variant, varying coefficients, is meant to be (as shipped its corrector is of first order). Steps that touch
    alpha = 0 or sigma = 0 are first order; one more than `cap` times the mean of those behind it uses one past
    node; `starter` begins with single steps of order p, of Runge-Kutta in rho for p > 3.

    Order: p, and p + 1 with the corrector. Source: Zhao et al. 2023, arXiv 2302.04867, algorithms 1 and 2 and
    appendix. Cost: 1 network call a step, p + 2 states.
    """

    predictor: int = 3
    variant: BVariant = BVariant.BH2
    corrector: bool = True
    starter: bool = False
    cap: Limit = CAP

    def __post_init__(self) -> None:
        if self.predictor not in (1, 2, 3, 4, 5):
            raise ValueError(
                f"UniPC: got predictor={self.predictor!r}, expected 1 to 5; the order is one more"
            )
        if not isinstance(self.variant, BVariant):
            raise ValueError(
                f"UniPC: got variant={self.variant!r}, expected a BVariant, such as BVariant.BH2"
            )

    @property
    def order(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.predictor + self.corrector

    def step(self, b: Builder, i: int) -> None:
        if not (b.finite(i) and b.finite(i + 1)):
            return b.first_order(i)
        if self.starter and i < self.predictor - 1:
            return self._open(b, i)
        h = b.lam[i + 1] - b.lam[i]
        reach = b.reach(i, self.predictor, self.cap)
        past = [(b.lam[i - m] - b.lam[i]) / h for m in range(1, reach)]
        current, *older = self._weights(h, past)
        predict = [b.alpha[i + 1] * w for w in (current, *older)]
        correct: list[float] = []
        if self.corrector:
            current, *older, new = self._weights(h, [*past, 1.0])
            correct = [b.alpha[i + 1] * w for w in (new, current, *older)]
        corrected_step(b, i, b.sigma[i + 1] / b.sigma[i], predict, correct)

    def _open(self, b: Builder, i: int) -> None:
        """A single step of order p that leaves D of its node."""
        if self.predictor <= 3:
            return DPMSolverPPSingle(self.predictor).step(b, i)
        rho_step_from_data(b, i, BY_ORDER[self.predictor])

    def _weights(self, h: float, r: list[float]) -> list[float]:
        """Weights of D_0, D_1, ... for the nodes r."""
        if len(r) != 1 or self.variant is BVariant.EXACT:
            return data_weights(h, [0.0, *r])
        slope = phi(h, 0) / 2 / r[0] if self.variant is BVariant.BH2 else h / 2 / r[0]
        return [phi(h, 0) - slope, slope]
