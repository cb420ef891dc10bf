"""The backward pass: cotangents at all nodes of a window at once, swept until none of them moves."""

from collections.abc import Callable

import torch
from torch import Tensor

from ...solvers import Call
from ...solvers.program import Program
from ..replay.rollout import Registers
from ..replay.sensitivity import Sensitivity
from ..replay.transpose import transpose
from .forward import near
from .secants import Secants
from .unrolled import Unrolled


class Backward:
    """One window of the transposed run: `nodes`, all those of the steps of `program`.

    A sweep walks the transposed plan with g_j + J_j^T (a_j - cotangent_j) in the place of VJPs: what node j's Jacobian
    made of an earlier cotangent of its prediction, moved on by what is known of it. Then all cotangents are pulled back
    through the window's graph at once.

    Attributes:
        cotangents: (n, B, outs, ...) of the predictions, as they were pulled back last.
        found: (n, B, ...) what came of them.
        sweeps: how often.
    """

    def __init__(self, program: Program, unrolled: Unrolled, nodes: range, memory: int) -> None:
        self.program, self.unrolled, self.nodes, self.sweeps = program, unrolled, nodes, 0
        like, (size, outs) = unrolled.like, unrolled.sizes
        self.found = like.new_zeros(len(nodes), *like.shape)
        self.cotangents = unrolled.no_outs(len(nodes))
        self.secants = Secants(len(nodes), len(like), memory, (outs, size), like)

    def settle(
        self,
        end: Registers,
        vjps: Callable[[Tensor], Tensor],
        scratch: Sensitivity,
        tol: float,
        most: int | None,
    ) -> Tensor:
        """The cotangents of all predictions, once none moves by more than `tol` of its norm, or after `most` sweeps.

        Args:
            end: the cotangents of the registers behind the window.
            vjps: those of the network, at all nodes.
            scratch: takes what the unfinished sweeps would add elsewhere.
        """
        settled = torch.zeros(len(self.unrolled.like), dtype=torch.bool, device=self.found.device)
        while True:
            now = torch.zeros_like(self.cotangents)
            self.walk(end, scratch, now)
            if self.sweeps:
                settled = near(now, self.cotangents, tol).all(0)
            if bool(settled.all()) or self.sweeps == most or self.sweeps == len(self.nodes):
                return now
            # a sample that has settled waits for the others as it is
            now = torch.where(settled.reshape(-1, *(1,) * (now.ndim - 2)), self.cotangents, now)
            found = vjps(now)
            if self.sweeps:
                self._learn(~settled, now - self.cotangents, found - self.found)
            self.cotangents, self.found = now, found
            self.sweeps += 1

    def walk(self, end: Registers, into: Sensitivity, now: Tensor | None = None) -> Registers:
        """The cotangents of the registers before the window; those of the predictions are written to `now`."""

        def vjp(call: Call, _: str, cotangent: Tensor) -> Tensor:
            node = self.unrolled.place(call)
            k, cotangent = node - self.nodes.start, self.unrolled.by_row(cotangent)
            if now is not None:
                now[k] = cotangent
            move = cotangent - self.cotangents[k]
            found = self.found[k] + self.unrolled.slope(node) * move.sum(1)
            return self.secants.added(found, k, move)

        # what it is given it may add to
        return transpose(self.program, {name: value.clone() for name, value in end.items()}, vjp, into)

    def _learn(self, moving: Tensor, move: Tensor, change: Tensor) -> None:
        rows = self.unrolled.rows(moving.expand(move.shape[:2]))
        slopes = self.unrolled.slopes[self.nodes.start : self.nodes.stop]
        beyond = change - slopes.reshape(*slopes.shape, *(1,) * (change.ndim - 2)) * move.sum(2)
        at = rows.node, rows.sample
        self.secants.learn(rows, move[at], beyond[at])
