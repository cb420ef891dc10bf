"""Conditioning: any nesting of dicts, lists and tuples of tensors, constant or one value per step."""

from dataclasses import dataclass
from itertools import count
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from ..solvers.per_step import PerStep


@dataclass(frozen=True, eq=False)
class Alias:
    """What stands in for a tensor of the conditioning during one call.

    Attributes:
        leaf: its place among `leaves(cond)`.
        tensor: the detached copy, which requires grad.
        scheduled: whether it is one row of a PerStep.
    """

    leaf: int
    tensor: Tensor
    scheduled: bool


def leaves(cond: Any) -> list[Tensor]:
    """All tensors in `cond`."""
    found = (leaf.values if isinstance(leaf, PerStep) else leaf for leaf in tree_leaves(cond))
    return [leaf for leaf in found if isinstance(leaf, Tensor)]


def aliased(cond: Any, step: int) -> tuple[Any, list[Alias]]:
    """`cond` as step `step` sees it, with an alias for every tensor that requires grad."""
    places, aliases = count(), []

    def seen(leaf: Any) -> Any:
        scheduled = isinstance(leaf, PerStep)
        tensor = leaf.values if scheduled else leaf
        if not isinstance(tensor, Tensor):
            return leaf
        place, value = next(places), tensor[step] if scheduled else tensor
        if not tensor.requires_grad:
            return value
        alias = Alias(place, value.detach().requires_grad_(), scheduled)
        aliases.append(alias)
        return alias.tensor

    return tree_map(seen, cond), aliases
