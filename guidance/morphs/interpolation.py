"""Interpolation: what lies between two latents."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ...solvers.checked import CheckedFields


class Interpolation(CheckedFields, ABC):
    """A path from a (weight 0) to b (weight 1)."""

    @abstractmethod
    def __call__(self, a: Tensor, b: Tensor, weight: float, lead: int = 1) -> Tensor:
        """The point at `weight`, in the shape of a and b. The first `lead` axes number vectors that have nothing to do
        with one another: 1 for states (B, ...), 2 for noises (slots, B, ...).
        """


@dataclass(frozen=True)
class Lerp(Interpolation):
    """(1 - w) a + w b. Of independent Gaussian noises it is too short: by sqrt(1/2) in the middle."""

    def __call__(self, a: Tensor, b: Tensor, weight: float, lead: int = 1) -> Tensor:
        return torch.lerp(a, b, weight)


@dataclass(frozen=True)
class Slerp(Interpolation):
    """[sin((1 - w) th) a + sin(w th) b] / sin th,    th the angle between a and b, vector by vector.

    Keeps the length of noises as long as one another. Where a and b are parallel, th = 0, it is the line between
    them; where they are opposite there is no shortest way, and it is the line too.
    """

    def __call__(self, a: Tensor, b: Tensor, weight: float, lead: int = 1) -> Tensor:
        flat = [v.flatten(lead) for v in (a, b)]
        lengths = [v.norm(dim=-1) for v in flat]
        cosine = (flat[0] * flat[1]).sum(-1) / (lengths[0] * lengths[1])
        angle = cosine.clamp(-1, 1).acos()
        sine = angle.sin()
        line = ~(sine > 1e-4)  # of a length of zero too, whose cosine is NaN
        safe = torch.where(line, torch.ones_like(sine), sine)
        shares = [
            torch.where(line, torch.full_like(sine, part), (part * angle).sin() / safe)
            for part in (1 - weight, weight)
        ]
        spread = (*angle.shape, *(1,) * (a.ndim - lead))
        return shares[0].reshape(spread) * a + shares[1].reshape(spread) * b
