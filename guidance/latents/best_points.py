"""The best of the points that a descent has seen."""

import torch
from torch import Tensor

from ...solvers.broadcast import per_sample


class BestPoints:
    """The best values so far: sample by sample where batch mates share nothing, else by the total. A loss that is
    NaN is worse than any.
    """

    def __init__(self, separate: bool) -> None:
        self.separate = separate
        self.loss: Tensor | None = None
        self.values: list[Tensor] = []
        self.closed: Tensor | None = None  # (B,), where nothing is taken any more

    @property
    def figure(self) -> Tensor:
        """What is compared: (B,), or the total (1,) where batch mates share variables."""
        assert self.loss is not None
        return self.loss if self.separate else self.loss.sum()[None]

    def offer(self, loss: Tensor, variables: list[Tensor]) -> None:
        """Keep what is better than before; `loss` (B,) is not written to later."""
        values = [variable.detach() for variable in variables]
        if self.loss is not None and self.separate:
            better = (loss < self.loss) | self.loss.isnan()
            if self.closed is not None:
                better = better & ~self.closed
            self.loss = torch.where(better, loss, self.loss)
            self.values = [
                torch.where(per_sample(better, new), new, old)
                for new, old in zip(values, self.values, strict=True)
            ]
        elif self.loss is None or _total(loss) < _total(self.loss):
            self.loss, self.values = loss, [value.clone() for value in values]


def _total(loss: Tensor) -> tuple[int, float]:
    """What `loss` (B,) comes to: how many are NaN, then the sum of the others."""
    return int(loss.isnan().sum()), float(loss.nansum())
