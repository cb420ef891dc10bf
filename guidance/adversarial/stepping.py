"""Steps of an attack: how long they are, and along what, from what the steps before have found."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ...solvers.broadcast import per_sample
from ...solvers.checked import CheckedFields
from .threat_model import Points, ThreatModel


class Walk(ABC):
    """The steps of one restart."""

    @abstractmethod
    def onwards(self, step: int, changes: Points, loss: Tensor, slopes: Points) -> Points:
        """The changes to look at next, inside the threat model, from the loss (B,) at the present ones and its slopes.

        Called once for each step 0, 1, ...; no sample's steps may depend on its batch mates.
        """


class Stepping(CheckedFields, ABC):
    """A rule for the steps of `pgd`."""

    @abstractmethod
    def walk(self, threat: ThreatModel, steps: int) -> Walk:
        """Begin a restart of so many steps."""


@dataclass(frozen=True)
class FixedStep(Stepping):
    """change <- P(change - share radius direction(g)), where g is the gradient, or with momentum mu the sum

        g <- mu g + gradient / |gradient|_1

    Source: Madry et al. 2018, arXiv 1706.06083, section 2.1; momentum: Dong et al. 2018 (MI-FGSM), 1710.06081,
    algorithm 1, there with mu = 1.

    Args:
        share: length of a step in radii; None: 2.5 / steps, as Madry et al. choose it, so that a steady descent reaches
            the border from anywhere in the ball.
    """

    share: float | None = None
    momentum: float = 0.0

    def __post_init__(self) -> None:
        if (self.share is not None and not 0 < self.share) or not 0 <= self.momentum:
            raise ValueError(f"FixedStep: got {self}, expected share > 0 and momentum >= 0")

    def walk(self, threat: ThreatModel, steps: int) -> Walk:
        return _FixedWalk(self.momentum, 2.5 / steps if self.share is None else self.share, threat)


class _FixedWalk(Walk):
    def __init__(self, momentum: float, share: float, threat: ThreatModel) -> None:
        self.momentum, self.share, self.threat, self.sums = momentum, share, threat, threat.none()

    def onwards(self, step: int, changes: Points, loss: Tensor, slopes: Points) -> Points:
        if self.momentum:
            self.sums = tuple(
                self.momentum * s + _unit_sum(g.double()) for s, g in zip(self.sums, slopes, strict=True)
            )
            slopes = self.sums
        return self.threat.stepped(changes, slopes, self.share)


def _unit_sum(slope: Tensor) -> Tensor:
    """slope / |slope|_1, zero where it is zero."""
    size = slope.flatten(1).abs().sum(1).clamp(min=torch.finfo(slope.dtype).tiny)
    return slope / per_sample(size, slope)
