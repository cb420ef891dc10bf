"""Unrolled: the network calls of a program side by side, as a batched call on any of them needs them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...solvers import Call
from ...solvers.broadcast import per_sample
from ...solvers.program import Program
from .rows import Rows


class Unrolled:
    """The M network calls of a program, its nodes, for a batch of B.

    Args:
        program: whose calls.
        slopes: A of every call's output A x + B H with the base H held, by the call's index in the plan.
        like: (B, ...) the state.

    Attributes:
        calls: the calls.
        steps: (M,) their steps.
        t, a, b, slopes: (M, B) of them.
        outs: how many registers each writes.
        kinds: what is done to predictions; one call can do but one thing.
    """

    def __init__(self, program: Program, slopes: Sequence[Tensor], like: Tensor) -> None:
        self.calls, self.like = list(program.calls()), like
        self.first = self.calls[0].index if self.calls else 0
        self.steps = torch.tensor([call.step for call in self.calls], device=like.device)
        self.kinds = {(op.then, len(op.outs), op.variance) for op in (call.op for call in self.calls) if op}
        self.outs = max((outs for _, outs, _ in self.kinds), default=1)
        self.t = self._table([call.t for call in self.calls])
        self.a = self._table([call.a for call in self.calls])
        self.b = self._table([call.b for call in self.calls])
        self.slopes = self._table([slopes[call.index] for call in self.calls])
        self.converts = bool((self.a != 0).any()) or bool((self.b != 1).any())

    def __len__(self) -> int:
        return len(self.calls)

    @property
    def sizes(self) -> tuple[int, int]:
        """Numbers in a sample's state, and in what a call says of it."""
        size = self.like.shape[1:].numel()
        return size, self.outs * size

    def place(self, call: Call) -> int:
        """The node of a call of the plan."""
        return call.index - self.first

    def slope(self, node: int) -> Tensor:
        """A of a node, for states (B, ...)."""
        return per_sample(self.slopes[node], self.like)

    def rows(self, chosen: Tensor) -> Rows:
        """The rows of what is `chosen`, (M, B) flags, node by node."""
        node, sample = chosen.nonzero(as_tuple=True)
        return Rows(node, self.steps[node], sample)

    def rows_of(self, nodes: range) -> Rows:
        """The rows of all samples at some nodes."""
        chosen = torch.zeros_like(self.t, dtype=torch.bool)
        chosen[nodes.start : nodes.stop] = True
        return self.rows(chosen)

    def call(self, rows: Rows, index: int) -> Call:
        """The batched call on `rows`, as number `index` of a run."""
        at, first = (rows.node, rows.sample), self.calls[int(rows.node[0])]
        a, b = (per_sample(each[at], self.like) for each in (self.a, self.b)) if self.converts else (0.0, 1.0)
        return Call(index, first.step, self.t[at], a, b, first.op)

    def no_outs(self, rows: int) -> Tensor:
        """Zeros (rows, B, outs, ...)."""
        return self.like.new_zeros(rows, len(self.like), self.outs, *self.like.shape[1:])

    def by_row(self, out: Tensor) -> Tensor:
        """What a call wrote, (K, ...) or of two registers (2, K, ...), as (K, outs, ...)."""
        return out.unsqueeze(1) if self.outs == 1 else out.movedim(0, 1)

    def as_called(self, rows: Tensor) -> Tensor:
        """`by_row` undone."""
        return rows[:, 0] if self.outs == 1 else rows.movedim(1, 0)

    def _table(self, values: list[Any]) -> Tensor:
        to = {"dtype": self.like.dtype, "device": self.like.device}
        rows = [torch.as_tensor(value, **to).reshape(-1).expand(len(self.like)) for value in values]
        return torch.stack(rows) if rows else torch.zeros(0, len(self.like), **to)


def part(program: Program, low: int, high: int) -> Program:
    """Steps low .. high - 1 of its plan, of a program that may be cut already."""
    cut, span = program.plan.starts[program.ops[0].step], program.plan.span(low, high)
    return replace(program, ops=program.ops[span.start - cut : span.stop - cut])
