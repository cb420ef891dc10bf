"""What decides on the levels of a batch's samples."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from ...solvers.checked import CheckedFields


class LevelDraws(CheckedFields, ABC):
    """From a uniform number at each sample's own address to those that an allocation takes, each uniform in (0, 1)."""

    @abstractmethod
    def of(self, u: Tensor, shift: float) -> Tensor:
        """v (B,) of u (B,) and one number for all, `shift`, all independent and uniform in (0, 1)."""


@dataclass(frozen=True)
class StratifiedDraws(LevelDraws):
    """v_i = (rank of u_i in the batch + shift) / B: levels have their shares of every batch, to one sample.

    Classical fixed counts: the variance of differences counts, not their second moment. Each v_i by itself is uniform,
    so the estimate is unbiased in whatever order a batch comes. Which level a sample takes depends on the ids of its
    batch mates (what it is on that level does not).
    """

    def of(self, u: Tensor, shift: float) -> Tensor:
        return (u.argsort().argsort() + shift) / max(len(u), 1)


@dataclass(frozen=True)
class IndependentDraws(LevelDraws):
    """v_i = u_i: a sample's level is its own whatever the batch, and the estimates of samples are independent, so that
    their spread says how accurate the mean is.
    """

    def of(self, u: Tensor, shift: float) -> Tensor:
        return u
