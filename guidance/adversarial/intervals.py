"""Proportions with their confidence intervals: what a count of samples says about all of them."""

import math
from dataclasses import dataclass

import torch

from ...solvers.checked import CheckedFields


@dataclass(frozen=True)
class Proportion(CheckedFields):
    """`successes` of `trials` independent samples.

    A sum of shares in [0, 1] may stand for the count: their variance is at most that of a coin of the same mean, so
    that Wilson's interval errs to the safe side.
    """

    successes: float | int
    trials: int

    def __post_init__(self) -> None:
        if not 0 <= self.successes <= self.trials:
            raise ValueError(f"Proportion: got {self.successes} of {self.trials}, expected 0 to all of them")

    @property
    def value(self) -> float:
        """successes / trials; NaN of none."""
        return self.successes / self.trials if self.trials else math.nan

    def wilson(self, level: float = 0.95) -> tuple[float, float]:
        """(low, high): the p with |value - p| <= z sqrt(p (1 - p) / trials). Covers about `level`, averaged over p.

        Source: Wilson 1927; Brown, Cai and DasGupta 2001 recommend it.
        """
        check_level(level)
        if not self.trials:
            return 0.0, 1.0
        n, p, z = self.trials, self.value, quantile((1 + level) / 2)
        middle, half = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
        return max(0.0, (middle - half) / (1 + z**2 / n)), min(1.0, (middle + half) / (1 + z**2 / n))

    def clopper_pearson(self, level: float = 0.95) -> tuple[float, float]:
        """(low, high) that covers at least `level` whatever p is. Source: Clopper and Pearson 1934."""
        check_level(level)
        k, tail = int(self.successes), (1 - level) / 2
        if k != self.successes:
            raise ValueError(
                f"clopper_pearson: got {self.successes} successes, expected a whole number; shares have wilson()"
            )
        return binomial_lower(k, self.trials, tail), 1 - binomial_lower(self.trials - k, self.trials, tail)

    def __str__(self) -> str:
        low, high = self.wilson()
        return f"{self.value:.1%} [{low:.1%}, {high:.1%}]"


def binomial_lower(successes: int, trials: int, alpha: float) -> float:
    """The greatest p, rounded down, with P(at least `successes` of `trials`) <= alpha: a lower bound on the true p that
    fails with probability at most alpha.

    Cost: some 60 sums of the terms from `successes` up.
    """
    if successes == 0:
        return 0.0
    k = torch.arange(successes, trials + 1, dtype=torch.float64)
    ways = math.lgamma(trials + 1) - torch.lgamma(k + 1) - torch.lgamma(trials - k + 1)

    def tail(p: float) -> float:
        return float((ways + k * math.log(p) + (trials - k) * math.log1p(-p)).exp().sum())

    low, high = 0.0, 1.0
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if tail(middle) <= alpha else (low, middle)
    return low


def quantile(p: float) -> float:
    """Phi^-1(p) of the standard normal distribution."""
    return float(torch.special.ndtri(torch.tensor(p, dtype=torch.float64)))


def check_level(level: float) -> None:
    """Raise ValueError unless 0 < level < 1."""
    if not 0 < level < 1:
        raise ValueError(f"level: got {level}, expected a probability such as 0.95")
