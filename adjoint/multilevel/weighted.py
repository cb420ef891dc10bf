"""Weighted: samples of several grids that stand, with signed weights, for those of the finest."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...solvers.notebook import Shown
from ...solvers.packing import State


@dataclass(frozen=True, eq=False, repr=False)
class Weighted(Shown):
    """M samples of the B starts of a batch, M >= B.

    Attributes:
        samples: (M, ...) in the form of x, with the graph to all that the runs reach.
        weights: (M,), of both signs.
        owners: (M,) the start in the batch, 0 .. B-1, that each sample comes from: `context[owners]` is what belongs to
            it. levels: (M,) the level that it was run on.
        batch: B.
        calls: network calls of all samples, each counted for itself.
    """

    samples: State
    weights: Tensor
    owners: Tensor
    levels: Tensor
    batch: int
    calls: int

    def mean(self, values: Tensor) -> Tensor:
        """sum_i w_i values_i: an unbiased estimate of the mean over the batch of what `values` (M,) are at the finest
        level's samples; its gradient is one of that mean's gradient.
        """
        return (self.weights * values).sum()

    def each(self, values: Tensor) -> Tensor:
        """(B,) the estimate of every start, whose mean is `mean`."""
        terms = self.batch * self.weights * values
        return torch.zeros(self.batch, dtype=terms.dtype, device=terms.device).index_add(
            0, self.owners, terms
        )
