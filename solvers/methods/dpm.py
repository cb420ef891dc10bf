"""Multistep DPM-Solver and DPM-Solver++: exponential Adams-Bashforth in lambda, on either prediction."""

from dataclasses import dataclass
from numbers import Integral
from typing import Annotated, ClassVar

from ..compiler import CAP, Builder, Method
from ..wanted import OWN_WORDS, Limit
from .dpm_single import DPMSolverPPSingle, DPMSolverSingle
from .sides import ON_DATA, ON_NOISE, Side
from .weights import data_weights, phi


@dataclass(frozen=True)
class _Multistep(Method):
    """The last `order` predictions interpolated in lambda, integrated by the weights of the side."""

    order: Annotated[int, OWN_WORDS] = 2
    exact: bool = False
    starter: bool = False
    cap: Limit = CAP
    side: ClassVar[Side]
    single: ClassVar[type[DPMSolverPPSingle] | type[DPMSolverSingle]]

    def __post_init__(self) -> None:
        if not isinstance(self.order, Integral) or self.order not in (1, 2, 3):
            raise ValueError(
                f"{type(self).__name__}: got order={self.order!r}, expected 1, 2 or 3; DEIS(4) is of order 4"
            )

    def step(self, b: Builder, i: int) -> None:
        if not (b.finite(i) and b.finite(i + 1)):
            return b.first_order(i)
        order = b.reach(i, self.order, self.cap)
        if self.starter and order < self.order and i < self.order - 1:
            return self.single(self.order).step(b, i)
        width = self.side.width(b, i)
        nodes = [(b.lam[i - j] - b.lam[i]) / (b.lam[i + 1] - b.lam[i]) for j in range(order)]
        if order == 2 and not self.exact:
            slope = phi(width, 0) / 2 / -nodes[1]
            weights = [phi(width, 0) + slope, -slope]
        else:
            weights = data_weights(width, nodes)
        self.side.evaluate(b, i)
        self.side.finish(b, i, *((w, f"{self.side.letter}{i - j}") for j, w in enumerate(weights)))


@dataclass(frozen=True)
class DPMSolverPP(_Multistep):
    """x_t = (sigma_t/sigma_s) x + alpha_t sum_j b_j D_{-j},  b_j = INT_0^1 h e^{-h(1-th)} L_j(th) dth.

    L_j interpolates the last `order` data predictions in lambda. Order 2 uses the published "midpoint" weight
    w_0/2 in place of w_1 unless `exact`. Order 3 is the true third order: the widely shipped 3M has half the
    second derivative and is second order. Steps that touch alpha = 0 or sigma = 0 are first order, and so is
    a step more than `cap` times the mean of those behind it; warm-up rises from order 1, or with `starter`
    takes single steps of the same order.

    Source: Lu et al. 2022, arXiv 2211.01095, eq. 11 and appendix. Cost: 1 network call a step (starter:
    `order` calls), order + 1 states.
    """

    side = ON_DATA
    single = DPMSolverPPSingle


@dataclass(frozen=True)
class DPMSolver(_Multistep):
    """x_t = (alpha_t/alpha_s) x - sigma_t sum_j b_j E_{-j},  b_j = INT_0^1 h e^{h(1-th)} L_j(th) dth.

    Multistep DPM-Solver: `DPMSolverPP` on the noise prediction, with the same weights, order 2's v_0/2 in place of
    v_1, corrected order 3, `cap` and `starter`. With `exact` it is Adams-Bashforth in log rho, which diffusers ships
    as DEISMultistepScheduler; DEIS itself interpolates in model time.

    Source: Lu et al. 2022, arXiv 2206.00927; multistep in arXiv 2211.01095. Cost: 1 network call a step (starter:
    `order` calls), order + 1 states.
    """

    side = ON_NOISE
    single = DPMSolverSingle
