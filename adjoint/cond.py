"""Conditioning: any nesting of dicts, lists and tuples of tensors, constant or one value per step."""

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


def check_steps(cond: Any, steps: int) -> bool:
    """Whether any leaf is PerStep; each must have one value for each of the plan's steps."""
    scheduled = [leaf for leaf in tree_leaves(cond) if isinstance(leaf, PerStep)]
    for leaf in scheduled:
        if len(leaf.values) != steps:
            raise ValueError(
                f"cond: got PerStep with {len(leaf.values)} values, expected {steps}, one for each step of "
                "the plan; its values are (N, ...)"
            )
    return bool(scheduled)


def at_step(cond: Any, step: int) -> Any:
    """`cond` as step `step` sees it."""
    return tree_map_only(PerStep, lambda leaf: leaf.values[step], cond)


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
