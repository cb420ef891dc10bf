"""A draw in a register of its own, for an Apply that takes more of it than a multiple, and its squared norm."""

from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from ..compiler import Builder
from ..instructions import Combine


def draw(b: Builder, out: str) -> str:
    """out <- a fresh slot; the term 0 x gives it the state's shape. Returns `out`."""
    b.ops.append(Combine(out, ((0.0, "x"),), ((1.0, b.slots),)))
    b.slots += 1
    return out


def squared_norm(state: Any) -> Tensor:
    """(B,): the squared norm of each sample."""
    return sum(leaf.flatten(1).square().sum(1) for leaf in tree_leaves(state))  # type: ignore[return-value]
