"""A walk over the graph of a network call: which leaves it reaches, and whether it stays within the call."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from .entrance import Entrance


@dataclass(frozen=True)
class Extent:
    """How much of a network call is differentiated.

    Attributes:
        known: ids of the leaves, and of the tensors with a graph of their own, that it was known to take.
        edges: of its graph: a `detach` or a stretch without grad in it cuts some off. None: not known.
    """

    known: frozenset[int]
    edges: int | None = None


@dataclass(frozen=True, eq=False)
class Reach:
    """What the output of a network call depends on.

    Attributes:
        extent: which of the inputs that it was known to take it did, and the size of its graph.
        leaves: other leaves.
        older: whether the graph leads past its own beginning, into one that was there before.
        elsewhere: whether it leads to what entered another call of the run.
    """

    extent: Extent
    leaves: list[Tensor]
    older: bool
    elsewhere: bool


def reach(out: Tensor, known: Collection[Tensor], since: int, stop: Collection[Tensor]) -> Reach:
    """What `out` depends on. The walk ends at leaves, at `known` and at `stop`.

    Autograd numbers its nodes as they are made, each thread for itself: one with a number below `since` was there
    before, and one with a number above that of `out` is another thread's.
    """
    # of a leaf, such as the state itself, the node that accumulates its gradient
    root = get_gradient_edge(out) if out.requires_grad else (None, 0)
    last = 0 if out.grad_fn is None else out.grad_fn._sequence_nr()
    own = {id(value) for value in stop}
    expected = own | {id(value) for value in known}
    # a tensor with a graph of its own is known by the edge that leads to the node that made it
    ends = {
        (value.grad_fn, value.output_nr): id(value) for value in (*known, *stop) if value.grad_fn is not None
    }
    stack: list[Any] = [(root[0], root[1])]
    seen: set[Any] = {None}
    found, leaves, older, elsewhere, count = set(), [], False, False, int(out.requires_grad)
    while stack:
        edge = stack.pop()
        node, _ = edge
        if edge in ends:
            found.add(ends[edge])
            continue
        if node in seen:
            continue
        seen.add(node)
        edges = node.next_functions
        if not edges and hasattr(node, "variable"):  # where a leaf's gradient would be accumulated
            place = id(node.variable)
            if place in expected:
                found.add(place)
            else:
                leaves.append(node.variable)
        elif isinstance(node, Entrance):
            elsewhere = True
        else:
            older = older or not since <= node._sequence_nr() <= last
            stack += edges
            count += sum(edge[0] is not None for edge in edges)
    return Reach(Extent(frozenset(found - own), count), leaves, older, elsewhere)


def entangled(tensors: Collection[Tensor]) -> bool:
    """Whether one of `tensors` is computed from another, or keeps its own `.grad` on the way.

    A gradient taken at all of them in one sweep would then count some paths twice: at the one and, through its
    graph, at the other.
    """
    grown = [value for value in tensors if value.grad_fn is not None]
    if any(value.retains_grad for value in grown):
        return True
    nodes = {value.grad_fn for value in grown}
    leaves = {id(value) for value in tensors if value.grad_fn is None}
    seen: set[Any] = {None}
    stack: list[Any] = [edge for node in nodes for edge, _ in node.next_functions]  # type: ignore[union-attr]
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if node in nodes or id(getattr(node, "variable", None)) in leaves:
            return True
        stack += [edge for edge, _ in node.next_functions]
    return False


def sequence_number() -> int:
    """A number that the nodes made so far stay below, and those made from now on do not."""
    with torch.enable_grad():
        return torch.zeros((), requires_grad=True).view(()).grad_fn._sequence_nr()  # type: ignore[union-attr]
