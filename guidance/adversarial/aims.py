"""What an attacker of a classifier minimises: losses of its logits (B, classes), away from the label or to a class."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...solvers.checked import CheckedFields

LogitLoss = Callable[[Tensor], Tensor]  # (B, classes) to (B,)


class Aim(CheckedFields, ABC):
    """How an attacker measures success."""

    @abstractmethod
    def at(self, logits: Tensor, labels: Tensor) -> LogitLoss:
        """The loss to minimise, fixed by the logits (B, classes) before the attack and the labels (B,)."""


@dataclass(frozen=True)
class CrossEntropy(Aim):
    """-cross_entropy = log softmax(z)_y. Its gradient vanishes where the classifier is sure: `DLR` keeps one."""

    def at(self, logits: Tensor, labels: Tensor) -> LogitLoss:
        return lambda z: -F.cross_entropy(z, labels, reduction="none")


@dataclass(frozen=True)
class DLR(Aim):
    """The difference of logits ratio (z_y - max_{i != y} z_i) / (z_(1) - z_(3)), z_(1) >= z_(2) >= ...: below 0 where
    the label is misread, and the same for a z and b z + c. Source: Croce and Hein 2020, arXiv 2003.01690.
    """

    def at(self, logits: Tensor, labels: Tensor) -> LogitLoss:
        _check_classes(self, logits, 3)

        def loss(z: Tensor) -> Tensor:
            order = z.sort(dim=1, descending=True).values
            own = F.one_hot(labels, z.shape[1]).bool()
            margin = z[own] - z.masked_fill(own, -torch.inf).amax(1)
            return margin / (order[:, 0] - order[:, 2] + 1e-12)

        return loss


@dataclass(frozen=True)
class TargetedCrossEntropy(Aim):
    """cross_entropy towards the class that is `rank`-th likeliest before the attack, the label left out."""

    rank: int = 1

    def at(self, logits: Tensor, labels: Tensor) -> LogitLoss:
        targets = target_of(self, logits, labels, self.rank)
        return lambda z: F.cross_entropy(z, targets, reduction="none")


@dataclass(frozen=True)
class TargetedDLR(Aim):
    """(z_y - z_target) / (z_(1) - (z_(3) + z_(4))/2), the target as in `TargetedCrossEntropy`; AutoAttack takes ranks
    1 to 9. Source: Croce and Hein 2020, arXiv 2003.01690.
    """

    rank: int = 1

    def at(self, logits: Tensor, labels: Tensor) -> LogitLoss:
        _check_classes(self, logits, 4)
        targets = target_of(self, logits, labels, self.rank)

        def loss(z: Tensor) -> Tensor:
            order = z.sort(dim=1, descending=True).values
            rows = torch.arange(len(z), device=z.device)
            spread = order[:, 0] - (order[:, 2] + order[:, 3]) / 2
            return (z[rows, labels] - z[rows, targets]) / (spread + 1e-12)

        return loss


def target_of(aim: Aim, logits: Tensor, labels: Tensor, rank: int) -> Tensor:
    """The `rank`-th likeliest class (B,) beside the label."""
    if not 1 <= rank < logits.shape[1]:
        raise ValueError(
            f"{aim}: got {logits.shape[1]} classes, expected a rank of 1 to one below their number; lower it"
        )
    own = F.one_hot(labels, logits.shape[1]).bool()
    return logits.masked_fill(own, -torch.inf).argsort(dim=1, descending=True)[:, rank - 1]


def _check_classes(aim: Aim, logits: Tensor, least: int) -> None:
    if logits.shape[1] < least:
        raise ValueError(
            f"{aim}: got {logits.shape[1]} classes, expected at least {least}; take CrossEntropy() for fewer"
        )
