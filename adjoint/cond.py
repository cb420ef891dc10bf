"""Conditioning: any nesting of dicts, lists and tuples of tensors, constant or one value per step."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only


@dataclass(frozen=True)
class PerStep:
    """One value per step: `values` (N, ...); step k sees values[k]."""

    values: Tensor


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


def check_steps(cond: Any, steps: int) -> bool:
    """Whether any leaf is PerStep; each must have one value for each of the plan's steps."""
    scheduled = [leaf for leaf in tree_leaves(cond) if isinstance(leaf, PerStep)]
    for leaf in scheduled:
        if len(leaf.values) != steps:
            raise ValueError(
                f"cond: got PerStep with {len(leaf.values)} values, expected {steps}, one for each step of "
                "the plan"
            )
    return bool(scheduled)


def at_step(cond: Any, step: int) -> Any:
    """`cond` as step `step` sees it."""
    return tree_map_only(PerStep, lambda leaf: leaf.values[step], cond)


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
