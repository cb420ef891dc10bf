"""Chips: an image at the size and in the range of colours that a face network was trained on."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...solvers.checked import CheckedFields
from ...solvers.cut_off import cut_off
from ...solvers.kinds import described
from ...solvers.wanted import Finite


class Levels(CheckedFields, ABC):
    """What becomes of colours that a file could not hold: real numbers, and those outside 0 .. 255."""

    @abstractmethod
    def __call__(self, colours: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class RealLevels(Levels):
    """Cut off at 0 and 255 and not rounded: the gradient is that of the value."""

    def __call__(self, colours: Tensor) -> Tensor:
        return cut_off(colours, 0.0, 255.0)


@dataclass(frozen=True)
class EightBits(Levels):
    """Cut off and rounded, as in a file. The gradient is handed straight through, as if neither had happened: an
    approximation (Bengio et al. 2013, arXiv 1308.3432).
    """

    def __call__(self, colours: Tensor) -> Tensor:
        file = colours.detach().clamp(0, 255).round()
        return file + (colours - colours.detach())  # adds an exact zero


@dataclass(frozen=True)
class Chip(CheckedFields):
    """Square images (B, 1 or 3, n, n) in [low, high] to (B, 3, size, size) in 0 .. 255 by cubic interpolation; one
    channel becomes three equal ones. Smaller chips than images are averaged (antialiasing).

    The face should fill the image as it does in the network's training data: nothing here looks for it.
    """

    size: int = 150
    low: Finite = -1.0
    high: Finite = 1.0
    levels: Levels = RealLevels()

    def __post_init__(self) -> None:
        if self.size < 1 or not self.low < self.high:
            raise ValueError(
                f"Chip: got size={self.size}, low={self.low}, high={self.high}, expected size >= 1 and low < high"
            )

    def __call__(self, images: Tensor) -> Tensor:
        square = images.ndim == 4 and images.shape[2] == images.shape[3]
        if not square or images.shape[1] not in (1, 3):
            raise ValueError(
                f"Chip: got images {described(images)}, expected square ones (B, 1, n, n) or (B, 3, n, n); crop them "
                "to the face"
            )
        images = images.to(torch.promote_types(images.dtype, torch.float32))
        large = F.interpolate(images, (self.size, self.size), mode="bicubic", antialias=True)
        return self.levels((large - self.low) * (255 / (self.high - self.low))).expand(-1, 3, -1, -1)
