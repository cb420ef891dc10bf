"""What a network call reached that nobody declared: a walk over its graph."""

from typing import Any

import torch
from torch import Tensor


def undeclared(out: Tensor, known: list[Tensor], start: int) -> tuple[list[Tensor], bool]:
    """Leaves under `out` not in `known`, and whether it reaches a node older than sequence number `start`
    past `known`.
    """
    ids: set[int] = {id(value) for value in known}
    seen: set[Any] = {value.grad_fn for value in known if value.grad_fn is not None} | {None}
    stack: list[Any] = [out.grad_fn]
    found, captured = [], False
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        edges = node.next_functions
        if not edges and hasattr(node, "variable"):
            if id(node.variable) not in ids:
                found.append(node.variable)
        elif node._sequence_nr() < start:
            captured = True
        else:
            stack += [edge for edge, _ in edges]
    return found, captured


def now() -> int:
    """The sequence number that the next node of the autograd graph will carry at least."""
    with torch.enable_grad():
        return torch.zeros((), requires_grad=True).view(()).grad_fn._sequence_nr()  # type: ignore[union-attr]
