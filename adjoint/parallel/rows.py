"""Rows: network calls of several steps as one call, each row with its own sample, time and step."""

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from ...solvers import Model
from ...solvers.per_step import PerStep
from ..replay.model_around import ModelAround
from ..replay.rollout import Rollout


class Rows(NamedTuple):
    """Of one batched call: which node (network call of the plan), which step and which sample each row is, (K,)."""

    node: Tensor
    step: Tensor
    sample: Tensor

    def chosen(self, which: Tensor) -> "Rows":
        """Some of them, by flags (K,)."""
        return Rows(*(each[which] for each in self))


def on_rows(rollout: Rollout, rows: Rows, batch: int) -> Rollout:
    """`rollout` for a call on `rows`: its conditioning enters whole, and the model takes each row's part of it.

    So the gradient at the conditioning comes back in the form in which the caller gave it.
    """
    leaves = [leaf for leaf in tree_leaves(rollout.cond) if isinstance(leaf, Tensor | PerStep)]
    scheduled = frozenset(k for k, leaf in enumerate(leaves) if isinstance(leaf, PerStep))
    whole = tree_map(lambda leaf: leaf.values if isinstance(leaf, PerStep) else leaf, rollout.cond)
    return replace(rollout, model=_ByRow(rollout.model, rows, batch, scheduled), cond=whole, scheduled=False)


class _ByRow(ModelAround):
    """A model that is called on `rows`, with conditioning for all steps and samples; `scheduled`: the places of what
    was PerStep.
    """

    def __init__(self, model: Model, rows: Rows, batch: int, scheduled: frozenset[int]) -> None:
        super().__init__(model)
        self.rows, self.batch, self.scheduled = rows, batch, scheduled

    def _called(self, model: Callable[..., Tensor], x: Tensor, t: Tensor, cond: Any) -> Tensor:
        places = count()

        def part(leaf: Any) -> Any:
            return self._part(leaf, next(places), x) if isinstance(leaf, Tensor) else leaf

        try:
            return model(x, t, tree_map(part, cond))
        except RuntimeError as error:
            error.add_note(
                f"in a call of Parallel on {len(x)} rows of several steps at once, a step alone having {self.batch}: "
                "the network has to take any number of rows, and keep nothing from call to call; use Checkpoint()"
            )
            raise

    def _part(self, leaf: Tensor, place: int, x: Tensor) -> Tensor:
        """What of `leaf` the rows see. What has no batch axis is one for all of a step, and must broadcast."""
        step, sample = self.rows.step, self.rows.sample
        if place not in self.scheduled:
            return leaf[sample] if leaf.ndim and len(leaf) == self.batch else leaf
        if leaf.ndim > 1 and leaf.shape[1] in (1, self.batch):
            return leaf[step, sample if leaf.shape[1] == self.batch else 0]
        return leaf[step].reshape(len(step), *(1,) * (x.ndim - leaf.ndim), *leaf.shape[1:])
