"""Conjugate integrators: DDIM for position and momentum."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import torch
from torch import Tensor

from ..compiler import Builder
from ..linear_map import Mixing
from ..methods.weights import lagrange
from ..wanted import Finite, Wanted
from .method import PhaseMethod, integral, score
from .process import PhaseSpaceLangevin


@dataclass(frozen=True)
class ConjugateDDIM(PhaseMethod):
    """z_t = e^{lam h} (1 - lam h) e^{-Ah} z + sum_j W_j L_j^T score_{-j},

        W_j = INT_0^h e^{(lam - A) v} (D/2) L(u_t + v)^-T l_j(v) dv,  L L^T = Cov[z_t given x_0]

    The flow in the coordinates e^{(lam I - A) u} z, in which the linear part is lam, with noise predictions eps = -L^T
    score integrated with their factors exact: eps constant over a step (order 1, DDIM for a pair), or interpolated by
    l_j through the last two nodes in u (order 2). lam = 0 leaves nothing to Euler; the paper tunes it for few steps.

    Order: `order`; a third node would buy none after a first step of order 1. Source: Pandey et al. 2024, arXiv
    2310.07894, section 3 (B = lam beta I: lambda-DDIM-I); the history as in gDDIM, Zhang et al. 2023, arXiv 2206.05564.
    Cost: 1 network call a step, order + 1 states.
    """

    order: Annotated[int, Wanted("1 or 2", lambda value: value in (1, 2))] = 1
    lam: Finite = 0.0

    def __post_init__(self) -> None:
        if self.lam and self.order > 1:
            raise ValueError(
                f"ConjugateDDIM: got lam={self.lam} with order={self.order}, expected lam=0: the Euler step that lam "
                "leaves is of first order; take order=1"
            )

    def move(self, b: Builder, i: int, process: PhaseSpaceLangevin, h: float) -> None:
        score(b, i, "", b.t[i])
        end = process.clock(b.t[i + 1])
        nodes = [float(process.clock(b.t[i - j]) - end) for j in range(min(self.order, i + 1))]
        terms = []
        for j, node in enumerate(nodes):
            own = torch.linalg.cholesky(process.covariance(end + node))
            weight = integral(partial(self._rate, process, float(end), j, nodes), h)
            terms.append((Mixing(weight @ own.mT), f"S{i - j}"))
        kept = math.exp(self.lam * h) * (1 - self.lam * h)
        b.combine("x", (Mixing(kept * process.flow(-h)), "x"), *terms)

    def _rate(self, process: PhaseSpaceLangevin, end: float, j: int, nodes: list[float], v: Tensor) -> Tensor:
        """e^{(lam - A) v} (D/2) L(end + v)^-T l_j(v), (n, 2, 2) at v (n,)."""
        lower = torch.linalg.cholesky(process.covariance(end + v))
        factor = torch.exp(self.lam * v) * torch.from_numpy(lagrange(v.numpy(), nodes, j))
        return factor[:, None, None] * process.flow(-v) @ (process.diffusion / 2) @ torch.linalg.inv(lower).mT
