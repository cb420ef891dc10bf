"""Recognisers: an image's descriptor, the distance between two, and the threshold under which they are one person."""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from ...adjoint.transforms import finite
from ...solvers.checked import CheckedFields
from ...solvers.kinds import described
from ..rewards.values import at_least_float32
from .distances import Distance

_R = TypeVar("_R", bound="Recogniser")


class Recogniser(CheckedFields, ABC):
    """images (B, ...) -> descriptors (B, d), and a distance of descriptors, smaller is closer.

    Two images count as one person where their distance is *under* the threshold, not at it. Subclasses are frozen
    dataclasses with the fields `threshold` and `distance`; they write `differentiable` and `embed`, the checks are
    here. An image's descriptor never depends on its batch mates. It leaves in float32 or wider.

    Attributes:
        threshold: a number, or None before calibration (`Calibration.of`).
        distance: of descriptors (..., d) to (...).
    """

    threshold: float | None
    distance: Distance

    @property
    @abstractmethod
    def differentiable(self) -> bool:
        """Whether descriptors have a gradient at the images."""

    @abstractmethod
    def embed(self, images: Tensor) -> Tensor:
        """(B, d) of images (B, ...), unchecked."""

    def describe(self, images: Tensor) -> Tensor:
        """Descriptors (B, d) of images (B, ...).

        Where there is no gradient, a whole row of NaN says that an image could not be read (no face was found): its
        distances are NaN, which the metrics know as a failed acquisition.

        Raises:
            ValueError: images that are not floating point (B, ...), or that require grad where there is none; another
                result than (B, d), or one without a graph where there should be one. FloatingPointError: descriptors
                that are not finite.

        Cost: what `embed` costs, and one synchronisation with the device.
        """
        name = type(self).__name__
        if not isinstance(images, Tensor) or images.ndim < 2 or not images.is_floating_point():
            raise ValueError(
                f"{name}: got images {described(images)}, expected a floating point tensor (B, ...) with a batch axis; "
                "add it with images[None]"
            )
        wanted = images.requires_grad and torch.is_grad_enabled()
        if wanted and not self.differentiable:
            raise ValueError(
                f"{name}: got images that require grad, expected detached ones: this recogniser has no gradient; pass "
                "images.detach() to judge, and another recogniser, or a black-box search, to optimise"
            )
        found = self.embed(images)
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(images):
            raise ValueError(
                f"{name}: got descriptors {described(found)}, expected a tensor ({len(images)}, d): one row per image; "
                "flatten the network's output"
            )
        found = at_least_float32(found, images)
        if wanted and not found.requires_grad:
            raise ValueError(
                f"{name}: got descriptors without a graph for images that require grad, expected one; drop no_grad, "
                "detach and numpy from the network, or say that it has no gradient: BlackBoxRecogniser(function)"
            )
        self._check_finite(found)
        return found

    def _check_finite(self, found: Tensor) -> None:
        if finite(found):
            return
        broken = ~torch.isfinite(found)
        unread = torch.isnan(found).all(1) & (not self.differentiable)
        rows = (broken.any(1) & ~unread).nonzero().flatten().tolist()
        if rows:
            raise FloatingPointError(
                f"{type(self).__name__}: got descriptors that are not finite for images {rows[:8]} of {len(found)}, "
                "expected finite ones; look at these images (a black box may answer a row of NaN alone: not read)"
            )

    def accepts(self, distances: Tensor) -> Tensor:
        """distances < threshold, of any shape; False where a distance is NaN."""
        if self.threshold is None:
            raise ValueError(
                f"{type(self).__name__}: got no threshold, expected one; calibrate it: "
                "recogniser.with_threshold(threshold_at(0.01, impostors))"
            )
        return distances < self.threshold

    def with_threshold(self: _R, value: float) -> _R:
        """The same recogniser with another threshold."""
        return replace(self, threshold=value)  # type: ignore[type-var]
