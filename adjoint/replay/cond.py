"""Conditioning: any nesting of dicts, lists and tuples of tensors, constant or one value per step."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from ...solvers.per_step import PerStep


@dataclass(frozen=True, eq=False)
class Alias:
    """What stands in for a tensor of the conditioning during one call.

    Attributes:
        leaf: its place among `leaves(cond)`.
        tensor: what stands in, cut off from the run's graph.
        scheduled: whether it is one row of a PerStep.
    """

    leaf: int
    tensor: Tensor
    scheduled: bool


def leaves(cond: Any) -> list[Tensor]:
    """All tensors in `cond`."""
    found = (leaf.values if isinstance(leaf, PerStep) else leaf for leaf in tree_leaves(cond))
    return [leaf for leaf in found if isinstance(leaf, Tensor)]


def aliased(cond: Any, step: int, alias: Callable[[Tensor], Tensor]) -> tuple[Any, list[Alias]]:
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
        aliases.append(Alias(place, alias(value), scheduled))
        return aliases[-1].tensor

    return tree_map(seen, cond), aliases


def substituted(cond: Any, values: Mapping[int, Tensor]) -> Any:
    """`cond` with other tensors at some places, numbered as in `leaves(cond)`."""
    places = count()

    def seen(leaf: Any) -> Any:
        if isinstance(leaf, PerStep):
            return PerStep(values.get(next(places), leaf.values))
        return values.get(next(places), leaf) if isinstance(leaf, Tensor) else leaf

    return tree_map(seen, cond)
