"""Patience: which samples have waited long enough for a lower loss."""

import torch
from torch import Tensor


class Patience:
    """Counts, sample by sample, the steps in which the best loss did not fall by more than `tolerance`.

    Args:
        most: steps to wait; None waits for ever.
    """

    def __init__(self, most: int | None, tolerance: float) -> None:
        self.most, self.tolerance = most, tolerance
        self.best: Tensor | None = None
        self.waited: Tensor | None = None

    def over(self, best: Tensor) -> Tensor:
        """Where it is over, from the best losses (B,) after one more step; once over, for good."""
        if self.best is None or self.waited is None:
            self.waited = torch.zeros_like(best, dtype=torch.long)
        else:
            self.waited = torch.where(
                (best < self.best - self.tolerance) & ~self._is_over(self.waited), 0, self.waited + 1
            )
        self.best = best
        return self._is_over(self.waited)

    def _is_over(self, waited: Tensor) -> Tensor:
        return torch.zeros_like(waited, dtype=torch.bool) if self.most is None else waited > self.most
