"""Single-step DPM-Solver and DPM-Solver++: exponential Runge-Kutta in lambda, on either prediction."""

from dataclasses import dataclass
from numbers import Integral
from typing import Annotated, ClassVar

from ..compiler import Builder, Method
from ..wanted import OWN_WORDS, Wanted
from .sides import ON_DATA, ON_NOISE, Side
from .weights import phi

_Part = Annotated[float, Wanted("a number in (0, 1], a part of the step", lambda r: 0 < r <= 1)]


@dataclass(frozen=True)
class _SingleStep(Method):
    """With phi_k the weights of the side at H, r = r1 and P_1 at lambda_s + r h, the integral of P is

    order 2: phi_0 P_s + (phi_0/2) (P_1 - P_s)/r; phi_1 for phi_0/2 if `exact`
    order 3: phi_0 P_s + phi_1 (P_2 - P_s)/r2, P_2 at r2 = 2/3 from a stage that is bent by (r2/r) phi_1(r2 H)
    """

    order: Annotated[int, OWN_WORDS] = 2
    exact: bool = False
    r1: _Part | None = None
    side: ClassVar[Side]

    def __post_init__(self) -> None:
        if not isinstance(self.order, Integral) or self.order not in (2, 3):
            raise ValueError(
                f"{type(self).__name__}: got order={self.order!r}, expected 2 or 3; order 1 is DDIM()"
            )

    def step(self, b: Builder, i: int) -> None:
        if not (b.finite(i) and b.finite(i + 1)):
            return b.first_order(i)
        width = self.side.width(b, i)
        level, start = phi(width, 0), self.side.evaluate(b, i)
        r = self.r1 or (1 / 2 if self.order == 2 else 1 / 3)
        late = self.side.stage(b, i, r, "1", (phi(r * width, 0), start))
        if self.order == 2:
            slope = (phi(width, 1) if self.exact else level / 2) / r
        else:
            r2 = 2 / 3
            bend = r2 / r * phi(r2 * width, 1)
            late = self.side.stage(b, i, r2, "2", (phi(r2 * width, 0) - bend, start), (bend, late))
            slope = phi(width, 1) / r2
        self.side.finish(b, i, (level - slope, start), (slope, late))


@dataclass(frozen=True)
class DPMSolverPPSingle(_SingleStep):
    """Single-step DPM-Solver++(2S, 3S) with stages at r1 h (and r2 h) in lambda.

        2S: x_t = (sigma_t/sigma_s) x + alpha_t (w_0 D_s + (w_0/2) (D_1 - D_s)/r1), r1 = 1/2; w_1 for w_0/2 if `exact`
        3S: second stage adds (r2/r1) w_1(r2 h) (D_1 - D_s); final w_0 D_s + w_1 (D_2 - D_s)/r2, r1 = 1/3, r2 = 2/3

    Third order needs r2 = 2/3, which is therefore no field: with 1 it is second. Steps that touch alpha = 0 or
    sigma = 0 are first order.

    Args:
        r1: where the first stage lies; any keeps the order. None for 1/2 (order 2), 1/3 (order 3).

    Source: arXiv 2211.01095, algorithm 1; Lu et al. 2022, arXiv 2206.00927, algorithm 2. Cost: `order` network
    calls a step.
    """

    side = ON_DATA


@dataclass(frozen=True)
class DPMSolverSingle(_SingleStep):
    """DPM-Solver-2 and -3, single-step on the noise prediction, with stages at r1 h (and r2 h) in lambda.

        2: x_t = (alpha_t/alpha_s) x - sigma_t (v_0 E_s + (v_0/2) (E_1 - E_s)/r1), r1 = 1/2; v_1 for v_0/2 if `exact`
        3: second stage adds (r2/r1) v_1(r2 h) (E_1 - E_s); final v_0 E_s + v_1 (E_2 - E_s)/r2, r1 = 1/3, r2 = 2/3

    v_k(h) = -w_k(-h). Order 2 with r1 = 1/2 is `KDPM2`. The rest is as in `DPMSolverPPSingle`. Order 1 is `DDIM`.

    Source: Lu et al. 2022, arXiv 2206.00927, algorithms 1 and 2. Cost: `order` network calls a step.
    """

    side = ON_NOISE


@dataclass(frozen=True)
class KDPM2(Method):
    """The midpoint rule in the noise level, y = x/alpha, rho = sigma/alpha, with the midpoint in log rho:

        y_m = y_s + (rho_m - rho_s) E_s,   rho_m = sqrt(rho_s rho_t);     y_t = y_s + (rho_t - rho_s) E_m

    k-diffusion's dpm_2, and the same as `DPMSolverSingle(2)`. Steps that touch alpha = 0 or sigma = 0 are first
    order.

    Source: Karras et al. 2022, arXiv 2206.00364, section 3, as k-diffusion has it. Cost: 2 network calls a step.
    """

    order = 2

    def step(self, b: Builder, i: int) -> None:
        DPMSolverSingle(2).step(b, i)
