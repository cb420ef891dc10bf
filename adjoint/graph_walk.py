"""A walk over the graph of a network call: what it reached that nobody declared."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..solvers import Call


@dataclass(frozen=True, eq=False)
class Strangers:
    """What a network call reached besides the tensors it was known to take; false if nothing.

    Attributes:
        leaves: tensors that require grad.
        history: whether it also reached a graph that was there before the call: a captured result of others.
    """

    leaves: list[Tensor]
    history: bool

    def __bool__(self) -> bool:
        return bool(self.leaves) or self.history

    def __str__(self) -> str:
        if self.leaves:
            return f"a leaf of shape {tuple(self.leaves[0].shape)}"
        return "a tensor with a graph of its own"

    def error(self, call: Call) -> RuntimeError:
        """What to raise where `call` reaches what the first call of its run did not."""
        return RuntimeError(
            f"network call {call.index} of step {call.step} reaches {self} the first call did not; expected "
            "the same inputs at every call; register it as a parameter, pass it in cond, or use "
            "Checkpoint(mechanism=Mechanism.REGION)"
        )


def strangers(out: Tensor, known: Iterable[Tensor], since: int) -> Strangers:
    """What `out` depends on besides `known`, in the graph from sequence number `since` on.

    Autograd numbers its nodes as they are made, each thread for itself, so a node with a number below `since` was
    there before the call that made `out`, and one above that of `out` is another thread's: they are not followed,
    for their leaves belong to somebody else's graph.
    """
    last = 0 if out.grad_fn is None else out.grad_fn._sequence_nr()
    known = list(known)
    expected = {id(value) for value in known}
    seen: set[Any] = {value.grad_fn for value in known if value.grad_fn is not None} | {None}
    stack: list[Any] = [out.grad_fn]
    leaves, history = [], False
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        edges = node.next_functions
        if not edges and hasattr(node, "variable"):  # where a leaf's gradient would be accumulated
            if id(node.variable) not in expected:
                leaves.append(node.variable)
        elif not since <= node._sequence_nr() <= last:
            history = True
        else:
            stack += [edge for edge, _ in edges]
    return Strangers(leaves, history)


def sequence_number() -> int:
    """A number that the nodes made so far stay below, and those made from now on do not."""
    with torch.enable_grad():
        return torch.zeros((), requires_grad=True).view(()).grad_fn._sequence_nr()  # type: ignore[union-attr]
