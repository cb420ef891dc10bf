"""Moments: Adam written out, for iterates that live inside a run."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Moments:
    """Running means of gradients and of their squares, entry by entry, after `count` of them.

    torch's optimiser changes leaves in place; here every value is new, so that a run can be differentiated
    through its guide. Source: Kingma and Ba 2015 (Adam), arXiv 1412.6980, algorithm 1.
    """

    betas: tuple[float, float]
    mean: Tensor
    square: Tensor
    count: int = 0

    @classmethod
    def zero(cls, like: Tensor, betas: tuple[float, float]) -> "Moments":
        """Before the first gradient."""
        return cls(betas, torch.zeros_like(like), torch.zeros_like(like))

    def updated(self, slope: Tensor) -> "Moments":
        """With one gradient more."""
        first, second = self.betas
        return replace(
            self,
            mean=first * self.mean + (1 - first) * slope,
            square=second * self.square + (1 - second) * slope.square(),
            count=self.count + 1,
        )

    def step(self, lr: float) -> Tensor:
        """What Adam subtracts: lr m / (sqrt(v) + 1e-8), m and v freed of their bias to the zeros they began with."""
        first, second = self.betas
        mean, square = self.mean / (1 - first**self.count), self.square / (1 - second**self.count)
        return lr * mean / (square.sqrt() + 1e-8)
