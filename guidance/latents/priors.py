"""Latent priors: what keeps an optimised starting noise typical."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from ...solvers.checked import CheckedFields
from ...solvers.wanted import Positive


class Prior(CheckedFields, ABC):
    """A penalty (B,) on the starting state x (B, ...), in nats times `weight`."""

    weight: float

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """The penalty, one value per sample."""


@dataclass(frozen=True)
class NormPrior(Prior):
    """weight |x / sigma|^2 / 2: the negative log density of N(0, sigma^2 I). Pulls x to the origin."""

    weight: float = 1.0
    sigma: Positive = 1.0

    def __call__(self, x: Tensor) -> Tensor:
        return self.weight * (x / self.sigma).flatten(1).square().sum(1) / 2


@dataclass(frozen=True)
class ChiPrior(Prior):
    """weight (r^2/2 - (d - 1) log r - c), r = |x|/sigma: the negative log density of the chi law of the radius.

    c makes the least value, at r = sqrt(d - 1), zero. Holds x on the shell where Gaussian noise lives.

    Source: Samuel et al. 2023, arXiv 2306.08687, section 3.
    """

    weight: float = 1.0
    sigma: Positive = 1.0

    def __call__(self, x: Tensor) -> Tensor:
        flat = (x / self.sigma).flatten(1)
        free = flat.shape[1] - 1  # d - 1
        square = flat.square().sum(1)  # r^2, so log r = log(square) / 2
        least = free / 2 * (1 - math.log(free)) if free else 0.0
        return self.weight * (square / 2 - free / 2 * square.log() - least)


@dataclass(frozen=True)
class Priors:
    """A penalty for each kind of variable. Noise is seen as (B, slots, ...), controls as (B, N, ...):
    NormPrior(c) on controls is the running cost c/2 sum_k |u_k|^2.
    """

    x: Prior | None = None
    noise: Prior | None = None
    controls: Prior | None = None

    def check(self, noise: bool, controls: bool) -> None:
        """Raise ValueError for a prior on what is not optimised."""
        for what, prior, there in (("noise", self.noise, noise), ("controls", self.controls, controls)):
            if prior is not None and not there:
                raise ValueError(
                    f"prior on {what}: got {prior}, expected None, for {what} does not vary; "
                    f"pass over=Over({what}=True)"
                )

    def __call__(self, x: Tensor, noise: Tensor | None, controls: Tensor | None) -> Tensor:
        """The sum of the penalties, (B,)."""
        total = x.new_zeros(len(x))
        for prior, value in ((self.x, x), (self.noise, noise), (self.controls, controls)):
            if prior is not None and value is not None:
                total = total + prior(value)
        return total
