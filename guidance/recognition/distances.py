"""Distances between descriptors: smaller is closer."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ...solvers.checked import CheckedFields


class Distance(CheckedFields, ABC):
    """distance(a, b): (..., d), (..., d) -> (...), which broadcast. A similarity is negated, or taken from its most."""

    @abstractmethod
    def __call__(self, a: Tensor, b: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Euclidean(Distance):
    """|a - b|, with gradient 0 where a = b."""

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.linalg.vector_norm(a - b, dim=-1)


@dataclass(frozen=True)
class Cosine(Distance):
    """1 - cos(a, b), in [0, 2]: as |u - v|^2 / 2 of the unit vectors, which neither rounds below 0 nor loses the
    digits of a small distance. Zeros have no direction: NaN, a comparison that did not take place.
    """

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        u, v = (x / torch.linalg.vector_norm(x, dim=-1, keepdim=True) for x in (a, b))
        return (u - v).square().sum(-1) / 2


EUCLIDEAN = Euclidean()
COSINE = Cosine()
