"""Balls: how far an attack may move what it attacks, and along what."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ...solvers.broadcast import per_sample
from ...solvers.checked import CheckedFields
from ...solvers.wanted import NonNegative
from .rounding import towards_centre


class Ball(CheckedFields, ABC):
    """Perturbations (B, ...) of bounded size, sample by sample."""

    radius: float

    @abstractmethod
    def project(self, change: Tensor) -> Tensor:
        """The nearest perturbation inside."""

    @abstractmethod
    def direction(self, gradient: Tensor) -> Tensor:
        """The direction of steepest ascent of unit size in this norm."""

    def place(self, centre: Tensor, change: Tensor) -> Tensor:
        """centre + project(change) in centre's dtype, rounded towards the centre: exactly inside in every dtype, for
        every norm that no coordinate's shrinking increases.
        """
        return towards_centre(centre, self.project(change.double()))

    def spread(self, normal: Tensor) -> Tensor:
        """A perturbation to begin a restart with, from standard normal noise: anywhere inside."""
        return self.project(self.radius * normal)


@dataclass(frozen=True)
class Linf(Ball):
    """|change| <= radius in every coordinate; steps by the gradient's sign."""

    radius: NonNegative

    def project(self, change: Tensor) -> Tensor:
        return change.clamp(-self.radius, self.radius)

    def direction(self, gradient: Tensor) -> Tensor:
        return gradient.sign()

    def spread(self, normal: Tensor) -> Tensor:
        """Uniform in the cube: erf(z/sqrt 2) is uniform on (-1, 1)."""
        return self.radius * torch.erf(normal / 2**0.5)


@dataclass(frozen=True)
class L2(Ball):
    """|change|_2 <= radius for every sample; steps along the gradient, of unit length (zero where it is zero)."""

    radius: NonNegative

    def project(self, change: Tensor) -> Tensor:
        # a sum of d squares may be wrong by d units in the last place: what is scaled stays that far inside
        margin = (change[0].numel() + 8) * torch.finfo(torch.float64).eps if len(change) else 0.0
        radius = self.radius * (1 - margin)
        least = max(radius, torch.finfo(torch.float64).tiny)  # a ball of radius 0 is its centre
        return change * (radius / _norm(change.double()).clamp(min=least)).to(change)

    def direction(self, gradient: Tensor) -> Tensor:
        return gradient / _norm(gradient).clamp(min=torch.finfo(gradient.dtype).tiny)

    def spread(self, normal: Tensor) -> Tensor:
        """Uniform in the ball: along z, at the radius u^(1/d), u = P(chi_d < |z|), which is uniform on (0, 1)."""
        norm = _norm(normal).double()
        half = torch.tensor(normal[0].numel() / 2, dtype=norm.dtype, device=norm.device)
        share = torch.special.gammainc(half, norm.square() / 2) ** (0.5 / half)
        return (self.radius * share / norm).to(normal) * normal


def _norm(x: Tensor) -> Tensor:
    return per_sample(x.flatten(1).norm(dim=1), x)
