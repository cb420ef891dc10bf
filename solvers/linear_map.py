"""Coefficients that are more than a number: linear maps of one sample's state, known in float64 before the first call.

A `Combine` takes them where it takes numbers, c x then being the map c applied to x:

    PerElement(values)    a factor for every element of the state: DPM-Solver-v3, per-pixel schedules
    Mixing(matrix)        the parts of a state mixed with each other: position and momentum
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .full_precision import full_precision
from .process import as_table


class LinearMap(ABC):
    """A linear map of a state (...), without its batch axis; frozen, compared and hashed by its float64 numbers."""

    values: Tensor

    def __init__(self, values: Tensor | Sequence[Any]) -> None:
        self.values = as_table(type(self).__name__, values, "a tensor of real numbers").clone()
        if not bool(self.values.isfinite().all()):
            raise ValueError(
                f"{type(self).__name__}: got NaN or infinity, expected finite numbers; move the grid"
            )
        self._hash = hash((type(self), self.values.shape, self.values.numpy().tobytes()))

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and torch.equal(self.values, other.values)  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.values,)  # a hash of bytes is this process's own

    def scaled(self, factor: float) -> "LinearMap":
        """x -> factor (this x)."""
        return type(self)(factor * self.values)

    @abstractmethod
    def after(self, first: "LinearMap") -> "LinearMap":
        """x -> this (first x). Raises ValueError for a map of the other kind."""

    @abstractmethod
    def inverse(self) -> "LinearMap":
        """Raises ValueError where there is none."""

    @classmethod
    @abstractmethod
    def bound(cls, maps: Sequence["LinearMap"], shape: torch.Size, **to: Any) -> "Tensor | Mixer":
        """`maps`, one for all samples or one each, ready to act on states (B, ...) of this shape; `to`: their dtype
        and device. Raises ValueError where they do not fit the shape.
        """

    def _same_kind(self, other: "LinearMap") -> None:
        if type(other) is not type(self):
            raise ValueError(
                f"a product of {type(self).__name__} and {type(other).__name__}: expected two of one kind; write a "
                "step in which each register is combined with maps of one kind"
            )


class PerElement(LinearMap):
    """c x with one factor c for every element of a sample, or fewer that broadcast against (...).

    Args:
        values: (...), shaped as one sample, or (C, 1, 1), (H, W) and the like.
    """

    def __repr__(self) -> str:
        low, high = float(self.values.min()), float(self.values.max())
        return f"PerElement({low:+.4g} .. {high:+.4g}, {tuple(self.values.shape)})"

    def after(self, first: LinearMap) -> "PerElement":
        self._same_kind(first)
        return PerElement(self.values * first.values)

    def inverse(self) -> "PerElement":
        if bool((self.values == 0).any()):
            raise ValueError("PerElement: got a factor 0, expected none where a step is to be undone")
        return PerElement(1 / self.values)

    @classmethod
    def bound(cls, maps: Sequence[LinearMap], shape: torch.Size, **to: Any) -> Tensor:
        values = torch.stack(torch.broadcast_tensors(*[each.values for each in maps]))
        own, sample = values.shape[1:], shape[1:]
        missing = len(sample) - len(own)
        if missing < 0 or any(n not in (1, m) for n, m in zip(own, sample[missing:], strict=True)):
            raise ValueError(
                f"PerElement: got factors of shape {tuple(own)}, expected some that broadcast to a sample's "
                f"{tuple(sample)}; compile the plan for states of this shape"
            )
        return values.reshape(len(maps), *(1,) * missing, *own).to(**to)


class Mixing(LinearMap):
    """x'_i = sum_j m_ij x_j of the k equal parts x_1 .. x_k into which a state's first axis after the batch falls.

    A position and a momentum of C channels each are one state (B, 2 C, H, W), `torch.cat([x, m], 1)`, or of points
    (B, 2 d); a `Mixing` of a 2 x 2 matrix is then a step of both.

    Args:
        matrix: (k, k).
    """

    def __init__(self, matrix: Tensor | Sequence[Sequence[float]]) -> None:
        super().__init__(matrix)
        if self.values.ndim != 2 or self.values.shape[0] != self.values.shape[1]:
            raise ValueError(
                f"Mixing: got shape {tuple(self.values.shape)}, expected a square matrix (k, k), k parts of a state"
            )

    def __repr__(self) -> str:
        rows = ", ".join("[" + ", ".join(f"{c:+.4g}" for c in row) + "]" for row in self.values.tolist())
        return f"Mixing([{rows}])"

    def after(self, first: LinearMap) -> "Mixing":
        self._same_kind(first)
        return Mixing(self.values @ first.values)

    def inverse(self) -> "Mixing":
        try:
            return Mixing(torch.linalg.inv(self.values))
        except RuntimeError:
            raise ValueError(
                f"{self}: got a singular matrix, expected one with an inverse to undo a step"
            ) from None

    @classmethod
    def bound(cls, maps: Sequence[LinearMap], shape: torch.Size, **to: Any) -> "Mixer":
        matrix = torch.stack([each.values for each in maps])
        if shape[1] % matrix.shape[1]:
            raise ValueError(
                f"Mixing: got states {tuple(shape)} for a matrix of {matrix.shape[1]} parts, expected an axis 1 of as "
                "many equal parts; pass torch.cat([x, m], 1)"
            )
        return Mixer(matrix.to(**to))


class Mixer:
    """A `Mixing` ready for use; `c * x` and `x * c` are both the map applied to x.

    Args:
        matrix: (1, k, k), or (B, k, k) with one for each sample.
    """

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix

    def __mul__(self, x: Tensor) -> Tensor:
        parts = self._parts(x)
        with full_precision(x):
            return torch.matmul(self.matrix, parts).reshape(x.shape)

    __rmul__ = __mul__

    def _parts(self, x: Tensor) -> Tensor:
        """(B, k, n), of an empty batch too."""
        count = self.matrix.shape[1]
        return x.reshape(len(x), count, x.shape[1:].numel() // count)

    def __neg__(self) -> "Mixer":
        return Mixer(-self.matrix)

    @property
    def transposed(self) -> "Mixer":
        """How cotangents go back through it."""
        return Mixer(self.matrix.mT)

    def solve(self, x: Tensor) -> Tensor:
        """y with this y = x."""
        parts = self._parts(x)
        # LAPACK hands back columns side by side, and a network's graph may go by that
        return torch.linalg.solve(self.matrix.expand(len(x), -1, -1), parts).contiguous().reshape(x.shape)


Value = float | Tensor | Mixer
"""A coefficient ready for use: a number, or factors shaped to broadcast, or a map."""


def transposed(c: Value) -> Value:
    """How a cotangent goes back through c."""
    return c.transposed if isinstance(c, Mixer) else c
