"""PerStep: conditioning that changes along the run."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from .notebook import Shown


@dataclass(frozen=True, repr=False)
class PerStep(Shown):
    """One value per step: `values` (N, ...); step k sees values[k]."""

    values: Tensor


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
