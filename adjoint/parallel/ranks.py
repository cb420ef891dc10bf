"""Ranks: the processes among which the rows of each batched call are dealt out."""

from typing import Any

import torch
from torch import Tensor, distributed

from .rows import Rows


class Ranks:
    """The processes of a `torch.distributed` group; this one alone where it is None.

    All hold the same run and the same states; each calls the network on its own rows only. What is exchanged: one
    output for each row of a sweep, and at the end of the backward pass one sum of the gradients at parameters and
    conditioning.
    """

    def __init__(self, group: Any) -> None:
        self.group = group
        self.rank = 0 if group is None else distributed.get_rank(group)
        self.size = 1 if group is None else distributed.get_world_size(group)

    def mine(self, rows: Rows) -> Rows:
        """Every `size`-th row: all have as much to do."""
        return Rows(*(each[self.rank :: self.size] for each in rows))

    def gathered(self, own: Tensor, count: int) -> Tensor:
        """The outputs of all rows, (count, ...), from those of `mine`."""
        if self.size == 1:
            return own
        most = -(-count // self.size)
        padded = own.new_zeros(most, *own.shape[1:])
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        distributed.all_gather(parts, padded, self.group)
        return torch.stack(parts, 1).flatten(0, 1)[:count]

    def summed(self, sums: dict[str, Tensor], like: dict[str, Tensor]) -> dict[str, Tensor]:
        """The sums over all processes, for what any of them has; `like`: what there may be, in the form of each."""
        if self.size == 1 or not like:
            return sums
        there = torch.tensor([name in sums for name in like], dtype=torch.int32)
        there = there.to(next(iter(like.values())).device)
        distributed.all_reduce(there, group=self.group)
        found = {}
        for (name, value), holders in zip(like.items(), there.tolist(), strict=True):
            if holders:
                found[name] = sums.get(name, torch.zeros_like(value)).contiguous()
                distributed.all_reduce(found[name], group=self.group)
        return found

    def check_same(self, what: str, marks: Tensor) -> None:
        """Raise ValueError where the processes hold different numbers."""
        if self.size == 1:
            return
        every = [torch.empty_like(marks) for _ in range(self.size)]
        distributed.all_gather(every, marks.contiguous(), self.group)
        if not all(torch.equal(each, every[0]) for each in every):
            raise ValueError(
                f"Parallel: got ranks with different {what}, expected the same on all of a group, which share one run; "
                "seed them alike, or broadcast it"
            )
