"""Comparisons: distances, and who was compared with whom."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...solvers.checked import CheckedFields, checked
from ...solvers.notebook import Shown
from ...solvers.wanted import Reals
from .recogniser import Recogniser


@dataclass(frozen=True, eq=False, repr=False)
class Comparisons(Shown, CheckedFields):
    """Distances (n,) between images of the people `first` (n,) and `second` (n,), whole numbers from 0.

    NaN is a comparison that did not take place.
    """

    distances: Reals
    first: Tensor
    second: Tensor

    def __post_init__(self) -> None:
        n = (len(self.distances),) if self.distances.ndim == 1 else None
        for people in (self.first, self.second):
            whole = not people.is_floating_point() and not people.is_complex()
            if people.shape != n or not whole or (len(people) and int(people.min()) < 0):
                raise ValueError(
                    f"Comparisons: got distances {tuple(self.distances.shape)} and people {tuple(people.shape)} of "
                    f"{people.dtype}, expected (n,), (n,), and whole numbers from 0"
                )

    @property
    def people(self) -> int:
        """One more than the largest number of a person."""
        return 1 + int(torch.cat([self.first, self.second]).max())

    @classmethod
    @checked
    def among(cls, recogniser: Recogniser, images: Tensor, people: Tensor | None = None) -> "Comparisons":
        """Every pair of the images (N, ...) of different people: (N (N - 1) / 2,) where each shows another one.

        Args:
            people: (N,), who is in each image; by default someone else each time.
        """
        people = torch.arange(len(images), device=images.device) if people is None else people
        if len(people) != len(images):
            raise ValueError(
                f"people: got {len(people)} for {len(images)} images, expected one number for each image"
            )
        with torch.no_grad():
            found = recogniser.describe(images)
        a, b = torch.triu_indices(len(images), len(images), 1, device=images.device)
        a, b = (index[people[a] != people[b]] for index in (a, b))
        return cls(recogniser.distance(found[a], found[b]), people[a], people[b])

    @classmethod
    @checked
    def same(
        cls, recogniser: Recogniser, images: Tensor, others: Tensor, people: Tensor | None = None
    ) -> "Comparisons":
        """Image k with other image k of the same person: (N,). Arguments as in `among`."""
        people = torch.arange(len(images), device=images.device) if people is None else people
        if not len(people) == len(images) == len(others):
            raise ValueError(
                f"people: got {len(people)} for {len(images)} images and {len(others)} others, expected one for each"
            )
        with torch.no_grad():
            distances = recogniser.distance(recogniser.describe(images), recogniser.describe(others))
        return cls(distances, people, people)
