"""WindowGraph: the network's graph at all nodes of a window, kept over the sweeps of the backward pass."""

import torch
from torch import Tensor

from ..replay.live_call import LiveCall
from ..replay.sensitivity import Sensitivity
from .ranks import Ranks
from .rows import Rows
from .unrolled import Unrolled


class WindowGraph:
    """VJPs of one batched call on `rows`, which are all samples at some nodes; `live`: this process's part of it."""

    def __init__(self, live: LiveCall | None, unrolled: Unrolled, ranks: Ranks, rows: Rows) -> None:
        self.live, self.unrolled, self.ranks, self.rows = live, unrolled, ranks, rows

    def __call__(self, cotangents: Tensor) -> Tensor:
        """Cotangents of the states (n, B, ...) from those of the predictions (n, B, outs, ...)."""
        like, live, found = self.unrolled.like, self.live, None
        if live is not None and live.out.requires_grad:
            own = self._own(cotangents)
            (found,) = torch.autograd.grad(live.out, [live.state], own, retain_graph=True, allow_unused=True)
        if found is None:  # no row of ours, or a network that detaches its input
            found = like.new_zeros(len(self.ranks.mine(self.rows).node), *like.shape[1:])
        return self.ranks.gathered(found, len(self.rows.node)).unflatten(0, cotangents.shape[:2])

    def add(self, cotangents: Tensor, into: Sensitivity) -> None:
        """Add what the cotangents leave at parameters, captured leaves and conditioning. The graph is gone then."""
        if self.live is not None and (into.shared or into.cond):
            found = self.live.vjp(self._own(cotangents), into.shared, into.cond)
            if found is not None:
                into.add_call(0, found)  # of no step: PerStep entered whole

    def _own(self, cotangents: Tensor) -> Tensor:
        mine = cotangents.flatten(0, 1)[self.ranks.rank :: self.ranks.size]
        return self.unrolled.as_called(mine)
