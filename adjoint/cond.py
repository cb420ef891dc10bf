"""Conditioning: any nesting of dicts, lists and tuples of tensors, constant or one value per step."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only


@dataclass(frozen=True)
class PerStep:
    """One value per step: `values` (N, ...); step k sees values[k]."""

    values: Tensor


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


def local(cond: Any, step: int) -> tuple[Any, list[tuple[int, Tensor, bool]]]:
    """`cond` at `step` with every leaf that requires grad replaced by a detached one.

    Returns:
        the conditioning, and (index among `leaves(cond)`, replacement, whether it is one row of a PerStep).
    """
    index, replaced = iter(range(len(leaves(cond)))), []

    def replace(leaf: Any) -> Any:
        tensor = leaf.values if isinstance(leaf, PerStep) else leaf
        if not isinstance(tensor, Tensor):
            return leaf
        k, scheduled = next(index), isinstance(leaf, PerStep)
        value = tensor[step] if scheduled else tensor
        if not tensor.requires_grad:
            return value
        value = value.detach().requires_grad_()
        replaced.append((k, value, scheduled))
        return value

    return tree_map(replace, cond), replaced
