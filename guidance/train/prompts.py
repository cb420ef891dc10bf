"""Prompts: which items a rollout takes, and the noise of each sample: functions of (seed, position) and of
nothing else.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only
from torch.utils.data import default_collate

from ...solvers import Addressed, Plan
from ..objectives.objective import Batch


@dataclass(frozen=True, eq=False)
class Prompt:
    """One item: `cond` for the network, `context` for the reward, without a batch axis: tensors, numbers,
    strings, dicts.
    """

    cond: Any = None
    context: Any = None


def _column(values: list[Any], collate: Callable[[list[Any]], Any]) -> Any:
    return None if all(value is None for value in values) else collate(values)


class Prompts:
    """Items in an order of their own for each pass, every one `repeats` times in a row.

    The sample at global position p has the prompt of group p // repeats and noise addressed by (seed, p): the
    same whatever the number of processes, and known without the history.

    Args:
        items: any finite iterable or map-style dataset of `Prompt`s.
        shape: of one sample.
        repeats: samples of one prompt, for objectives that compare them.
        shuffle: a new order every pass; else as given.
        collate: from a list of conds (or contexts) to a batch; default torch's: tensors are stacked, strings
            listed.

    Raises:
        ValueError: no items. TypeError: an item that is no Prompt.
    """

    def __init__(
        self,
        items: Iterable[Any],
        shape: Sequence[int],
        *,
        repeats: int = 1,
        shuffle: bool = True,
        collate: Callable[[list[Any]], Any] = default_collate,
    ) -> None:
        self.items: Any = (
            items if hasattr(items, "__len__") and hasattr(items, "__getitem__") else list(items)
        )
        self.shape, self.repeats, self.shuffle, self.collate = tuple(shape), repeats, shuffle, collate
        if not len(self.items) or repeats < 1:
            raise ValueError(
                f"Prompts: got {len(self.items)} items and repeats={repeats}, expected at least 1 of each"
            )
        if not isinstance(self.items[0], Prompt):
            raise TypeError(
                f"Prompts: got items of {type(self.items[0]).__name__}, expected Prompt(cond, "
                "context); wrap each in one"
            )

    def batch(self, ids: Sequence[int], plan: Plan, seed: int, like: Tensor, stream: int = 0) -> Batch:
        """The batch of global positions `ids`, in the dtype and on the device of `like`.

        Starting noise comes from `stream`, injected noise too, from slots of its own.
        """
        groups = [k // self.repeats for k in ids]
        found = [self.items[self._item(group, seed)] for group in groups]
        noise = Addressed(seed, samples=ids, stream=stream)
        x = noise.initial(like.new_empty(len(ids), *self.shape))
        cond, context = (
            tree_map_only(Tensor, lambda value: value.to(like.device), _column(column, self.collate))
            for column in ([item.cond for item in found], [item.context for item in found])
        )
        return Batch(
            x,
            noise if plan.slots else None,
            torch.tensor([self._item(group, seed) for group in groups], device=like.device),
            cond,
            context,
            noise,
        )

    def _item(self, group: int, seed: int) -> int:
        turn, place = divmod(group, len(self.items))
        return _order(seed, turn, len(self.items))[place] if self.shuffle else place


# Philox is a function of (key, counter), so an order or a choice is found by its place, without the draws before
# it. Of the counter's four words of 64 bits the lowest counts the draws; the place is written into the others.


@lru_cache(maxsize=4)  # neighbouring samples ask for the same order
def _order(seed: int, turn: int, size: int) -> list[int]:
    """The items' order in pass `turn`."""
    return np.random.Generator(np.random.Philox(key=seed, counter=turn << 192)).permutation(size).tolist()


def shared_generator(seed: int, *place: int) -> torch.Generator:
    """A generator for choices that all processes share, at (iteration, update): no state to carry between them."""
    counter = sum(value << 64 * (k + 1) for k, value in enumerate(place))
    word = np.random.Philox(key=seed, counter=counter + (1 << 192)).random_raw()
    return torch.Generator().manual_seed(int(word) >> 1)  # 63 bits: it takes no seed beyond int64
