"""DEIS tAB: exponential Adams-Bashforth on the noise prediction, polynomials in model time."""

from dataclasses import dataclass

import numpy as np
import torch

from ..compiler import Builder, Method
from ..prediction import NOISE
from .runge_kutta import BY_ORDER, rho_step
from .weights import integrate, lagrange


@dataclass(frozen=True)
class DEIS(Method):
    """y_t = y_s + sum_j C_j E_{-j},  C_j = INT_{rho_s}^{rho_t} L_j(t(rho)) drho,  y = x/alpha, rho = sigma/alpha.

    L_j interpolates in model time t over the last `order` nodes (tAB with k = order - 1). With `starter` the
    first steps are rho-Runge-Kutta of the same order. Steps from alpha = 0 (or from sigma = 0) are first
    order; sigma = 0 at the end is regular.

    Source: Zhang and Chen 2023, arXiv 2204.13902, eq. 15. Cost: 1 network call a step, order + 1 states.
    """

    order: int = 3
    starter: bool = False

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3, 4):
            raise ValueError(f"DEIS: got order={self.order!r}, expected 1 to 4; take one of them")

    def step(self, b: Builder, i: int) -> None:
        if not b.finite(i) or b.alpha[i + 1] == 0:
            return b.first_order(i)
        order = 1
        while order < min(self.order, i + 1) and b.finite(i - order):
            order += 1
        first = b.evaluate(f"E{i}", b.t[i], NOISE)
        if self.starter and order < self.order and i < self.order - 1 and b.finite(i + 1):
            return rho_step(b, i, BY_ORDER[self.order], first)
        nodes = [b.t[i - j] for j in range(order)]
        weights = [self._weight(b, i, nodes, j) for j in range(order)]
        b.combine(
            "x",
            (b.alpha[i + 1] / b.alpha[i], "x"),
            *((b.alpha[i + 1] * w, f"E{i - j}") for j, w in enumerate(weights)),
        )

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
