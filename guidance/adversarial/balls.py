"""Balls: how far an attack may move what it attacks, and along what."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ...solvers.broadcast import per_sample


class Ball(ABC):
    """Perturbations (B, ...) of bounded size, sample by sample."""

    radius: float

    @abstractmethod
    def project(self, change: Tensor) -> Tensor:
        """The nearest perturbation inside."""

    @abstractmethod
    def direction(self, gradient: Tensor) -> Tensor:
        """The direction of steepest ascent of unit size in this norm."""


@dataclass(frozen=True)
class Linf(Ball):
    """|change| <= radius in every coordinate; steps by the gradient's sign."""

    radius: float

    def project(self, change: Tensor) -> Tensor:
        return change.clamp(-self.radius, self.radius)

    def direction(self, gradient: Tensor) -> Tensor:
        return gradient.sign()


@dataclass(frozen=True)
class L2(Ball):
    """|change|_2 <= radius for every sample; steps along the gradient, of unit length (zero where it is zero)."""

    radius: float

    def project(self, change: Tensor) -> Tensor:
        return change * (self.radius / _norm(change).clamp(min=self.radius))

    def direction(self, gradient: Tensor) -> Tensor:
        return gradient / _norm(gradient).clamp(min=torch.finfo(gradient.dtype).tiny)


def _norm(x: Tensor) -> Tensor:
    return per_sample(x.flatten(1).norm(dim=1), x)
