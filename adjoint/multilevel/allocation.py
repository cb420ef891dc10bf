"""How the samples of a batch are spread over levels, with the weights that keep their sum unbiased."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from ...solvers.checked import CheckedFields
from ...solvers.wanted import Wanted

Ratio = Annotated[float, Wanted("a number in [0, 1)", lambda value: 0 <= value < 1)]


class Allocation(CheckedFields, ABC):
    """Which levels each sample is run on, and with what weights: a table w (B, K), K - 1 the highest level in use,

        E[sum_l w_il f_l] = f_L / B   for each sample i and any numbers f_0, f_1, ..., f_L,

    so that sum_il w_il f(x_i at level l) is an unbiased estimate of the batch's mean of f at the finest level L; of
    the limit f_inf where levels go on without end.

    Attributes:
        beyond: how much rarer each level is than the one before it past those that are listed; 0 for none there.
    """

    beyond: Ratio

    @property
    @abstractmethod
    def depth(self) -> int:
        """The number of levels that are listed."""

    @abstractmethod
    def table(self, v: Tensor) -> Tensor:
        """w (B, K), float64, of draws v (B,), each uniform in (0, 1)."""

    @abstractmethod
    def runs(self, level: int) -> float:
        """The expected number of runs of `level` for one sample."""


@dataclass(frozen=True)
class CoupledSum(Allocation):
    """Sample i goes up to a level N_i of its own, P(N >= l) = P_l, and gives

        Z_i = f_0 + sum_{l=1}^{N_i} (f_l - f_{l-1}) / P_l:   w_il = (1/P_l - [l < N_i]/P_{l+1}) / B,  l <= N_i.

    The runs of the lower levels serve the higher ones' differences too, at no cost, but these then add up in the
    variance, f_{-1} = 0:

        Var Z = sum_l (E|f_{l-1} - f_L|^2 - E|f_l - f_L|^2)/P_l - |E f_L|^2

    with `StratifiedDraws` variances in place of all these moments. Runs of weight 0 (P_l = P_{l+1}) are not made.

    Args:
        shares: P_0 = 1 >= P_1 >= ... > 0 of the levels that are listed.
        beyond: P_{l+1}/P_l after them. Where work doubles and the differences' second moment falls by 2^-beta from a
            level to the next, work and variance are finite for 2^-beta < beyond < 1/2; 2^-(1+beta)/2 is best.

    Source: Rhee and Glynn 2015, Operations Research 63(5), the coupled sum estimator; the weights are the same sum
    collected by runs.
    """

    shares: tuple[float, ...]
    beyond: Ratio = 0.0

    def __post_init__(self) -> None:
        pairs = zip(self.shares, self.shares[1:], strict=False)
        if not self.shares or self.shares[0] != 1 or not all(a >= b > 0 for a, b in pairs):
            raise ValueError(
                f"{type(self).__name__}: got shares={self.shares}, expected 1.0 and then numbers that do not rise and "
                "stay above 0; the coarsest level serves every sample"
            )

    @property
    def depth(self) -> int:
        return len(self.shares)

    def runs(self, level: int) -> float:
        return self._reached(level) if self._reached(level) != self._reached(level + 1) else 0.0

    def table(self, v: Tensor) -> Tensor:
        tops = [self._top(one) for one in v.tolist()]
        out = torch.zeros(len(tops), 1 + max(tops, default=0), dtype=torch.float64)
        for i, top in enumerate(tops):
            for level in range(top + 1):
                next_share = 1 / self._reached(level + 1) if level < top else 0.0
                out[i, level] = (1 / self._reached(level) - next_share) / len(tops)
        return out

    def _reached(self, level: int) -> float:
        """P_l."""
        if level < len(self.shares):
            return self.shares[level]
        return self.shares[-1] * self.beyond ** (level - len(self.shares) + 1)

    def _top(self, v: float) -> int:
        """The highest level whose P_l is above v."""
        level = 0
        while self._reached(level + 1) > v:
            level += 1
        return level


@dataclass(frozen=True)
class SingleTerm(Allocation):
    """Sample i takes one level, l with probability p_l, and gives

        Z_i = (f_l - f_{l-1}) / p_l,  f_{-1} = 0:   w_il = 1/(B p_l),  w_i,l-1 = -1/(B p_l).

    Var Z = sum_l E|f_l - f_{l-1}|^2/p_l - |E f_L|^2, with `StratifiedDraws` sum_l Var[f_l - f_{l-1}]/p_l: classical
    multilevel, whose differences are of different samples. Each costs two runs. It pays where differences have one
    sign, as with a method of order 1 and grids that double; with `IndependentDraws` f_0 too costs its second moment.

    Args:
        probabilities: > 0, p_l up to a common factor.
        beyond: p_{l+1}/p_l after them; see `CoupledSum`.

    Source: Giles 2008, Operations Research 56(3); Rhee and Glynn 2015, Operations Research 63(5), the single term
    estimator.
    """

    probabilities: tuple[float, ...]
    beyond: Ratio = 0.0

    def __post_init__(self) -> None:
        if not self.probabilities or not all(0 < p < math.inf for p in self.probabilities):
            raise ValueError(
                f"SingleTerm: got probabilities={self.probabilities}, expected numbers > 0; leave a level without any "
                "out of the steps"
            )

    @property
    def depth(self) -> int:
        return len(self.probabilities)

    def runs(self, level: int) -> float:
        return self._chance(level) + self._chance(level + 1)

    def table(self, v: Tensor) -> Tensor:
        levels = [self._level(one) for one in v.tolist()]
        out = torch.zeros(len(levels), 1 + max(levels, default=0), dtype=torch.float64)
        for i, level in enumerate(levels):
            out[i, level] = 1 / (self._chance(level) * len(levels))
            if level:
                out[i, level - 1] = -out[i, level]
        return out

    def _chance(self, level: int) -> float:
        """p_l."""
        listed = self.probabilities
        total = sum(listed) + listed[-1] * self.beyond / (1 - self.beyond)
        if level < len(listed):
            return listed[level] / total
        return listed[-1] * self.beyond ** (level - len(listed) + 1) / total

    def _level(self, v: float) -> int:
        """The level that has v, of (0, 1) cut into pieces of the lengths p_l from its upper end: rare levels, where
        small numbers are exact.
        """
        level, above = 0, 1 - self._chance(0)
        while v < above and self._chance(level + 1) > 0:
            level += 1
            above -= self._chance(level)
        return level
