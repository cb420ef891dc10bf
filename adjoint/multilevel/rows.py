"""Some of a batch's samples, with what belongs to each of them."""

from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from ...solvers.kinds import check_kind, described
from ...solvers.packing import State
from ...solvers.per_step import PerStep


def rows_of(value: Any, index: Tensor, size: int, what: str) -> Any:
    """`value` of the samples `index` (R,) out of `size`: rows of every tensor in it, items of lists that hold none
    (prompts); what else it holds is shared.

    Raises:
        ValueError: a tensor without a row for each sample, a list without an item for each; PerStep, whose steps are
            those of one grid.
    """

    def pick(leaf: Any) -> Any:
        if isinstance(leaf, PerStep):
            raise ValueError(
                f"{what}: got PerStep values, of {len(leaf.values)} steps, expected what all grids share, since each "
                "level has steps of its own; pass one value for the whole run"
            )
        if not isinstance(leaf, Tensor | list | tuple):
            return leaf
        rows = leaf.shape[0] if isinstance(leaf, Tensor) and leaf.ndim else None
        if (rows if isinstance(leaf, Tensor) else len(leaf)) != size:
            raise ValueError(
                f"{what}: got {described(leaf)}, expected a row for each of {size} samples, since they go to different "
                "levels; expand it"
            )
        return leaf[index] if isinstance(leaf, Tensor) else [leaf[k] for k in index.tolist()]

    return tree_map(pick, value, is_leaf=_of_items)


def batch_size(x: State) -> int:
    """B. Raises TypeError where x holds no tensor, ValueError where it has no batch axis."""
    leaves = tree_leaves(x) or [x]
    for leaf in leaves:
        check_kind(
            "x",
            leaf,
            Tensor,
            "a tensor (B, ...), or a nesting of such tensors; torch.as_tensor(...) makes one",
        )
    if not leaves[0].ndim:
        raise ValueError(f"x: got {described(x)}, expected tensors (B, ...); pass x[None] for one sample")
    return len(leaves[0])


def _of_items(value: Any) -> bool:
    """Whether it is a list of items, rather than of columns with a row for each sample."""
    if not isinstance(value, list | tuple) or not value:
        return isinstance(value, PerStep)
    return not any(isinstance(leaf, Tensor | PerStep) for leaf in tree_leaves(value))
