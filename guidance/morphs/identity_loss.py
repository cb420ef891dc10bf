"""Identity losses: one number from the two distances of a morph to its subjects."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ...solvers.checked import CheckedFields


class IdentityLoss(CheckedFields, ABC):
    """What is made small of d_a and d_b."""

    @abstractmethod
    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """(B,) from distances (B,) to the first and the second subject."""


@dataclass(frozen=True)
class SumAndDifference(IdentityLoss):
    """d_a + d_b + balance |d_a - d_b|.

    With balance = 1, as published, it is 2 max(d_a, d_b), so that only the farther subject pulls; between 0 and 1 both
    do, the farther one (1 + balance)/(1 - balance) times as hard.

    Source: Blasingame and Liu 2024, AdjointDEIS, arXiv 2405.15020, section 5, and Greedy-DiM, 2404.06025.
    """

    balance: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.balance <= 1:
            raise ValueError(
                f"SumAndDifference: got balance={self.balance}, expected 0 to 1: beyond it the nearer subject is "
                "pushed away; the published loss has 1"
            )

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        return first + second + self.balance * (first - second).abs()


@dataclass(frozen=True)
class WorseDistance(IdentityLoss):
    """max(d_a, d_b): what the metrics of morphs look at."""

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        return torch.maximum(first, second)
