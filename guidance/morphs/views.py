"""Views: an image as it may reach a recogniser, shifted by a pixel and with the grain of another camera."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...solvers import Addressed
from ...solvers.checked import CheckedFields


@dataclass(frozen=True)
class Views(CheckedFields):
    """Shifts by -reach .. reach pixels along both of the last two axes, each with a grain of its own.

    A loss that is the mean over views cannot be won by pixels that one recogniser alone sees: what it finds is more
    likely to be seen by another. Shifts and grains are fixed, the same for all samples.

    Args:
        reach: 0 is the image as it is, with a grain; 1 are nine views.
        grain: its standard deviation; 0 for none.

    Cost: (2 reach + 1)^2 looks in the place of one.
    """

    reach: int = 1
    grain: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        if self.reach < 0 or self.grain < 0:
            raise ValueError(
                f"Views: got reach={self.reach}, grain={self.grain}, expected numbers at least 0"
            )

        Addressed(self.seed)  # says what is wrong with a seed

    def __call__(self, images: Tensor) -> list[Tensor]:
        """The views of images (B, C, H, W), each of their shape."""
        shifts = range(-self.reach, self.reach + 1)
        places = [(dy, dx) for dy in shifts for dx in shifts]
        grains = [self.grain * Addressed(self.seed)(k, images[:1].detach()) for k in range(len(places))]
        return [
            torch.roll(images, place, (-2, -1)) + grain for place, grain in zip(places, grains, strict=True)
        ]
