"""Averaging: the images between two images, before any model has seen them."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ...solvers.checked import CheckedFields


class Averaging(CheckedFields, ABC):
    """From two images (B, ...) to one."""

    @abstractmethod
    def __call__(self, a: Tensor, b: Tensor, weight: float) -> Tensor:
        """The image at `weight`: a at 0, b at 1."""


@dataclass(frozen=True)
class PlainAverage(Averaging):
    """(1 - w) a + w b, pixel by pixel. Of two photographs the one of more contrast is what one sees."""

    def __call__(self, a: Tensor, b: Tensor, weight: float) -> Tensor:
        return torch.lerp(a, b, weight)


@dataclass(frozen=True)
class EqualContrast(Averaging):
    """m + s z / |z|,    z = (1 - w) (a - m_a)/s_a + w (b - m_b)/s_b,    m and s on the line between those of a and b.

    m_a and s_a are the mean and the standard deviation of an image. Both subjects have the same say, and the mean of
    two photographs has the contrast of one.
    """

    def __call__(self, a: Tensor, b: Tensor, weight: float) -> Tensor:
        (mean_a, std_a, z_a), (mean_b, std_b, z_b) = _standardised(a), _standardised(b)
        z = _standardised(torch.lerp(z_a, z_b, weight))[2]
        return torch.lerp(mean_a, mean_b, weight) + torch.lerp(std_a, std_b, weight) * z


def _standardised(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(mean, standard deviation, what is left of x): both (B, 1, ...); an image of one colour stays at zero."""
    axes = tuple(range(1, x.ndim))
    mean = x.mean(axes, keepdim=True)
    std = (x - mean).square().mean(axes, keepdim=True).sqrt()
    return mean, std, (x - mean) / std.clamp(min=torch.finfo(x.dtype).tiny)
