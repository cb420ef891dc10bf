"""DEIS tAB: exponential Adams-Bashforth on the noise prediction, polynomials in model time."""

from dataclasses import dataclass

import numpy as np
import torch

from ..compiler import Builder
from .adams import NoiseAdams, adams_step
from .weights import integrate, lagrange


@dataclass(frozen=True)
class DEIS(NoiseAdams):
    """y_t = y_s + sum_j C_j E_{-j},  C_j = INT_{rho_s}^{rho_t} L_j(t(rho)) drho,  y = x/alpha, rho = sigma/alpha.

    L_j interpolates in model time t over the last `order` nodes (tAB with k = order - 1). In other clocks it has
    other names: in rho (rhoAB) `LMS(order)`, in log rho `DPMSolver(order, exact=True)`, which is what diffusers calls
    DEIS; Runge-Kutta in rho (rhoRK) is `RhoRK`. With `starter` the first steps are rho-Runge-Kutta of the same order.
    Steps from alpha = 0 (or from sigma = 0) are first order; sigma = 0 at the end is regular.

    Source: Zhang and Chen 2023, arXiv 2204.13902, eq. 15. Cost: 1 network call a step, order + 1 states.
    """

    order: int = 3
    starter: bool = False

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3, 4):
            raise ValueError(f"DEIS: got order={self.order!r}, expected 1 to 4; take one of them")

    def advance(self, b: Builder, i: int, reach: int) -> None:
        nodes = [b.t[i - j] for j in range(reach)]
        adams_step(b, i, [self._weight(b, i, nodes, j) for j in range(reach)])

    @staticmethod
    def _weight(b: Builder, i: int, nodes: list[float], j: int) -> float:
        scale = b.t[i + 1] - b.t[i]
        scaled = [(n - b.t[i]) / scale for n in nodes]

        def basis(t: np.ndarray) -> np.ndarray:
            return lagrange((t - b.t[i]) / scale, scaled, j)

        if b.finite(i + 1):  # drho = -e^{-lambda} dlambda
            return integrate(lambda lam: -np.exp(-lam) * basis(b.times_of(lam)), b.lam[i], b.lam[i + 1])

        def in_rho(rho: np.ndarray) -> np.ndarray:
            return basis(b.process.time(-torch.as_tensor(rho).log()).numpy())

        return integrate(in_rho, b.rho(i), 0.0, panel=b.rho(i))
