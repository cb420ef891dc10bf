"""ER-SDE: the family of reverse SDEs with any noise scale phi, in y = x/alpha and rho = sigma/alpha."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..compiler import CAP, Builder, Method
from ..wanted import Limit
from .dpm import DPMSolverPPSingle
from .predictor_corrector import corrected_step
from .tau import Tau
from .weights import integrate, node_weights


@dataclass(frozen=True)
class ERSDE(Method):
    """y_t = r y_s + sum_j b_j D_{-j} + sqrt(rho_t^2 - r^2 rho_s^2) xi,  r = phi(rho_t)/phi(rho_s),  y = x/alpha,

        (1 - r) D_0 + (rho_t - rho_s + phi(rho_t) I_1) D' + ((rho_t - rho_s)^2/2 + phi(rho_t) I_2) D'',
        I_1 = INT_{rho_t}^{rho_s} drho/phi,  I_2 = INT_{rho_t}^{rho_s} (rho - rho_s)/phi drho

    with D', D'' of the polynomial in rho through the last `nodes` data predictions. Both brackets are
    computed as INT (phi(rho_t)/phi(rho) - 1) (rho - rho_s)^{k-1} drho, which does not cancel at small steps.

    `phi` is a power of rho (1 the probability flow, 2 the reverse SDE, 1 + tau^2 SASolver's family), a function of a
    numpy array rho that grows at least as fast as rho, a `Tau`, for d log phi/d log rho = 1 + tau^2, or None for the
    paper's rho (exp(rho^0.3) + 10). Steps that touch alpha = 0 or sigma = 0 are deterministic and first order; one
    more than `cap` times the mean of those behind it in lambda uses one node. `starter` (phi = 1 only) begins with
    single steps of the same order.

    Order: `nodes` for phi = 1, else weak min(nodes, 2). Published third-order code leaves out Newton's
    correction of D' and is second order. Source: Cui et al. 2023, arXiv 2309.06169, ER-SDE-Solver-1 to 3.
    Cost: 1 network call a step.
    """

    nodes: int = 3
    phi: float | Callable[[np.ndarray], np.ndarray] | Tau | None = None
    starter: bool = False
    cap: Limit = CAP

    def __post_init__(self) -> None:
        if self.nodes not in (1, 2, 3):
            raise ValueError(
                f"ERSDE: got nodes={self.nodes!r}, expected 1, 2 or 3; more buy nothing under noise"
            )
        if isinstance(self.phi, int | float) and not 1 <= self.phi < math.inf:
            raise ValueError(f"ERSDE: got phi={self.phi}, expected a power >= 1; 1 is the probability flow")
        if self.starter and self.stochastic:
            raise ValueError(
                "ERSDE: got starter=True with noise, expected phi=1; weak order 2 needs no starter"
            )

    @property
    def stochastic(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.phi != 1

    @property
    def order(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return min(self.nodes, 2) if self.stochastic else self.nodes

    def step(self, b: Builder, i: int) -> None:
        if not (b.finite(i) and b.finite(i + 1)):
            return b.first_order(i)
        if self.starter and i < self.nodes - 1:
            return DPMSolverPPSingle(self.nodes).step(b, i)
        low, high = b.rho(i), b.rho(i + 1)
        ends = np.array(b.lam[i : i + 2])
        start, end = self._log_phi(ends).tolist()
        kept = 2 * float(np.diff(self._log_rise(ends))[0])  # log of (r rho_s/rho_t)^2
        if kept > 1e-12:
            raise ValueError(
                f"{self}: got phi/rho falling as rho rises near rho={low:.4g}, expected phi/rho to rise with "
                "rho; divide phi into a rising function times rho"
            )
        width = high - low

        def moment(k: int) -> float:
            def integrand(lam: np.ndarray) -> np.ndarray:
                # drho = -e^{-lambda} dlambda; th = (rho - rho_s)/(rho_t - rho_s)
                rho = np.exp(-lam)
                return np.expm1(end - self._log_phi(lam)) * k * ((rho - low) / width) ** (k - 1) * rho / width

            return integrate(integrand, b.lam[i], b.lam[i + 1])

        nodes = [(b.rho(i - j) - low) / width for j in range(b.reach(i, self.nodes, self.cap))]
        moments = [-math.expm1(end - start), *(moment(k) for k in range(1, len(nodes)))]
        corrected_step(
            b,
            i,
            b.alpha[i + 1] / b.alpha[i] * math.exp(end - start),
            [b.alpha[i + 1] * w for w in node_weights(moments, nodes)],
            noise=b.sigma[i + 1] * math.sqrt(max(-math.expm1(kept), 0.0)) if self.stochastic else 0.0,
        )

    def _log_phi(self, lam: np.ndarray) -> np.ndarray:
        return self._log_rise(lam) - lam

    def _log_rise(self, lam: np.ndarray) -> np.ndarray:
        """log(phi/rho), up to a constant: falls as lambda rises where there is noise."""
        if self.phi is None:
            return np.logaddexp(np.exp(-0.3 * lam), math.log(10))
        if isinstance(self.phi, Tau):
            return -(self.phi.value**2) * self.phi.until(lam)
        return np.log(self.phi(np.exp(-lam))) + lam if callable(self.phi) else (1 - self.phi) * lam
