"""DPM-Solver++: exponential integrators on the data prediction, multistep and single-step."""

from dataclasses import dataclass
from numbers import Integral
from typing import Annotated

from ..compiler import CAP, Builder, Method
from ..prediction import DATA
from ..wanted import OWN_WORDS, Limit
from .weights import data_weights, phi


@dataclass(frozen=True)
class DPMSolverPP(Method):
    """x_t = (sigma_t/sigma_s) x + alpha_t sum_j b_j D_{-j},  b_j = INT_0^1 h e^{-h(1-th)} L_j(th) dth.

    L_j interpolates the last `order` data predictions in lambda. Order 2 uses the published "midpoint" weight
    w_0/2 in place of w_1 unless `exact`. Order 3 is the true third order: the widely shipped 3M has half the
    second derivative and is second order. Steps that touch alpha = 0 or sigma = 0 are first order, and so is
    a step more than `cap` times the mean of those behind it; warm-up rises from order 1, or with `starter`
    takes single steps of the same order.

    Source: Lu et al. 2022, arXiv 2211.01095, eq. 11 and appendix. Cost: 1 network call a step (starter:
    `order` calls), order + 1 states.
    """

    order: Annotated[int, OWN_WORDS] = 2
    exact: bool = False
    starter: bool = False
    cap: Limit = CAP

    def __post_init__(self) -> None:
        if not isinstance(self.order, Integral) or self.order not in (1, 2, 3):
            raise ValueError(
                f"DPMSolverPP: got order={self.order!r}, expected 1, 2 or 3; DEIS(4) is of order 4"
            )

    def step(self, b: Builder, i: int) -> None:
        order = b.reach(i, self.order, self.cap)
        if self.starter and order < self.order and i < self.order - 1 and b.finite(i) and b.finite(i + 1):
            return DPMSolverPPSingle(self.order).step(b, i)
        if order == 1:
            return b.first_order(i)
        h = b.lam[i + 1] - b.lam[i]
        nodes = [(b.lam[i - j] - b.lam[i]) / h for j in range(order)]
        if order == 2 and not self.exact:
            slope = phi(h, 0) / 2 / -nodes[1]
            weights = [phi(h, 0) + slope, -slope]
        else:
            weights = data_weights(h, nodes)
        b.evaluate(f"D{i}", b.t[i], DATA)
        b.combine(
            "x",
            (b.sigma[i + 1] / b.sigma[i], "x"),
            *((b.alpha[i + 1] * w, f"D{i - j}") for j, w in enumerate(weights)),
        )


@dataclass(frozen=True)
class DPMSolverPPSingle(Method):
    """Single-step DPM-Solver++(2S, 3S) with stages at r1 h (and r2 h) in lambda.

        2S: x_t = (sigma_t/sigma_s) x + alpha_t (w_0 D_s + (w_0/2) (D_1 - D_s)/r1), r1 = 1/2; w_1 for w_0/2 if `exact`
        3S: second stage adds (r2/r1) w_1(r2 h) (D_1 - D_s); final w_0 D_s + w_1 (D_2 - D_s)/r2, r1 = 1/3, r2 = 2/3

    Third order needs r2 = 2/3. Source: arXiv 2211.01095, algorithm 1; Lu et al. 2022, arXiv 2206.00927,
    algorithm 2. Cost: `order` network calls a step.
    """

    order: Annotated[int, OWN_WORDS] = 2
    exact: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.order, Integral) or self.order not in (2, 3):
            raise ValueError(
                f"DPMSolverPPSingle: got order={self.order!r}, expected 2 or 3; order 1 is DDIM()"
            )

    def step(self, b: Builder, i: int) -> None:
        if not (b.finite(i) and b.finite(i + 1)):
            return b.first_order(i)
        h = b.lam[i + 1] - b.lam[i]
        start = b.evaluate(f"D{i}", b.t[i], DATA)
        r = 0.5 if self.order == 2 else 1 / 3
        first = self._stage(b, i, r, "1", (phi(r * h, 0), start))
        if self.order == 2:
            self._finish(b, i, (phi(h, 1) if self.exact else phi(h, 0) / 2) / r, phi(h, 0), start, first)
            return
        r2 = 2 / 3
        bend = r2 / r * phi(r2 * h, 1)
        second = self._stage(b, i, r2, "2", (phi(r2 * h, 0) - bend, start), (bend, first))
        self._finish(b, i, phi(h, 1) / r2, phi(h, 0), start, second)

    @staticmethod
    def _stage(b: Builder, i: int, r: float, tag: str, *terms: tuple[float, str]) -> str:
        t, alpha, sigma = b.at(b.lam[i] + r * (b.lam[i + 1] - b.lam[i]))
        b.combine(f"s{i}_{tag}", (sigma / b.sigma[i], "x"), *((alpha * w, name) for w, name in terms))
        return b.evaluate(f"D{i}_{tag}", t, DATA, f"s{i}_{tag}")

    @staticmethod
    def _finish(b: Builder, i: int, slope: float, level: float, start: str, late: str) -> None:
        alpha = b.alpha[i + 1]
        b.combine(
            "x", (b.sigma[i + 1] / b.sigma[i], "x"), (alpha * (level - slope), start), (alpha * slope, late)
        )
