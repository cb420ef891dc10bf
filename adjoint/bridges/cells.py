"""A Brownian path over the steps of a fixed-step solver, from addressed noise: replayed, not stored."""

import bisect
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ...solvers import Noise


class Cells:
    """Increments W and space-time Levy areas of a path on cells [s_k, s_{k+1}], in the interface torchsde expects.

    On a cell of length h:  W = sqrt(h) xi,  U = INT (W_r - W_s) dr = h (W/2 + H),  H = sqrt(h/12) xi',
    independent. xi is the draw of slot k, xi' of slot `cells` + k. Unions of cells are added up. The same
    sample sees the same path in any batch, order and replay.

    Args:
        edges: s_first .. s_last of these cells.
        first: the index of the first of them among the run's `cells`.
        noise: the source of draws.
        like: (B, ...) state; values are (B, d).
    """

    levy_area_approximation = "space-time"

    def __init__(self, edges: Sequence[float], first: int, cells: int, noise: Noise, like: Tensor) -> None:
        self.edges, self.first, self.cells, self.noise = list(edges), first, cells, noise
        self.like = like.detach()
        self.shape = torch.Size((len(like), like[0].numel()))
        self.dtype, self.device = like.dtype, like.device

    def __call__(
        self,
        ta: Tensor | float,
        tb: Tensor | float | None = None,
        return_U: bool = False,
        return_A: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        if return_A or tb is None:
            raise ValueError(
                "a Brownian path on cells: got a query for a Levy area or a single time, expected "
                "increments; use euler, milstein, srk, heun, midpoint or euler_heun"
            )
        low, high = self._edge(float(ta)), self._edge(float(tb))
        total, area = torch.zeros(self.shape).to(self.like), torch.zeros(self.shape).to(self.like)
        for k in range(low, high):
            h = self.edges[k + 1] - self.edges[k]
            w = math.sqrt(h) * self._draw(self.first + k)
            if return_U:
                own = h * (w / 2 + math.sqrt(h / 12) * self._draw(self.cells + self.first + k))
                # of the union: what was reached before this cell holds all along it
                area = area + h * total + own
            total = total + w
        return (total, area) if return_U else total

    def _draw(self, slot: int) -> Tensor:
        return self.noise(slot, self.like).reshape(self.shape)

    def _edge(self, s: float) -> int:
        """The index of the edge at s: solvers add up their steps, so to 1e-3 of a cell (float32 times)."""
        k = bisect.bisect_left(self.edges, s)
        near = min((j for j in (k - 1, k) if 0 <= j < len(self.edges)), key=lambda j: abs(self.edges[j] - s))
        if abs(self.edges[near] - s) > 1e-3 * (self.edges[1] - self.edges[0]):
            raise ValueError(
                f"a Brownian path on cells: got a query at s={s:.9g}, expected an edge of its cells; take "
                "fixed steps"
            )
        return near
