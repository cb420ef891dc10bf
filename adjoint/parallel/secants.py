"""Secants: what the sweeps so far have shown of the Jacobian at each node, beyond the slope of the base."""

import torch
from torch import Tensor

from .rows import Rows


class Secants:
    """At each node of each sample the last `memory` moves of the network's input and what they changed in its output:

        J d ~ A d + E (U^T U)^-1 U^T d,   U the moves (unit columns), E what the output changed beyond A U.

    Exact along moves that were made, A elsewhere: the multisecant form of Broyden's method, at each node by itself, so
    that sweeps stay triangular and end after M at the latest (here Anderson's, over all nodes at once, does not).
    Source: Fang and Saad 2009, Numer. Linear Algebra Appl. 16, 197; its use on unrolled plans is ours.

    Args:
        nodes, batch: M and B.
        size: numbers in an input and in an output.
        like: a tensor of the dtype and device.
    """

    def __init__(self, nodes: int, batch: int, memory: int, size: tuple[int, int], like: Tensor) -> None:
        self.memory = memory
        self.moves = like.new_zeros(nodes, batch, memory, size[0])
        self.changes = like.new_zeros(nodes, batch, memory, size[1])
        self.inverses = torch.zeros_like(self.moves)  # (U^T U)^-1 U^T
        self.count = torch.zeros(nodes, batch, dtype=torch.long, device=like.device)
        self.ready = [False] * nodes  # whether anything is known

    def learn(self, rows: Rows, move: Tensor, change: Tensor) -> None:
        """The input of each row moved by `move`, its output by `change` more than the base says, both (K, ...)."""
        if not self.memory or not len(rows.node):
            return
        move, change = move.flatten(1), change.flatten(1)
        length = move.norm(dim=1, keepdim=True)
        at = rows.node, rows.sample
        slot = self.count[at] % self.memory
        # a state that a wild first guess sent to infinity teaches nothing
        good = (length > 0) & length.isfinite() & change.isfinite().all(1, keepdim=True)
        self.moves[(*at, slot)] = torch.where(good, move / length, 0.0)
        self.changes[(*at, slot)] = torch.where(good, change / length, 0.0)
        self.count[at] += 1
        u = self.moves[at]
        gram = u @ u.mT
        # moves that are nearly one direction are one; a slot that is empty counts for nothing
        gram.diagonal(dim1=1, dim2=2).add_(torch.finfo(u.dtype).eps ** 0.625)
        self.inverses[at] = torch.linalg.solve(gram, u)
        for node in rows.node.unique().tolist():
            self.ready[node] = True

    def added(self, out: Tensor, node: int, d: Tensor) -> Tensor:
        """`out`, which is written to, + E (U^T U)^-1 U^T d at a node, for d (B, ...)."""
        if self.ready[node]:
            shares = torch.bmm(self.inverses[node], d.reshape(len(d), -1, 1))
            out += torch.bmm(shares.mT, self.changes[node]).view_as(out)
        return out
