"""Rewards read off the pixels: brightness, saturation, JPEG size."""

import io
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...solvers.optional import library
from .base import Reward
from .values import at_least_float32


@dataclass(frozen=True)
class _Ranged(Reward):
    """A reward of images whose black is `low` and whose white is `high`."""

    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(
                f"{type(self).__name__}: got low={self.low}, high={self.high}, expected low < high: the "
                "range of the samples"
            )

    def unit(self, samples: Tensor) -> Tensor:
        """The samples with black at 0 and white at 1, not clamped, in float32 or wider."""
        return (at_least_float32(samples) - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Brightness(_Ranged):
    """Mean over pixels and channels, 0 black and 1 white. Linear, so unbounded outside the range: add a KL or `.clip`.

    Args:
        low, high: values of black and white in the samples.
    """

    def score(self, samples: Tensor, context: Any) -> Tensor:
        return self.unit(samples).flatten(1).mean(1)


@dataclass(frozen=True)
class Saturation(_Ranged):
    """The fraction of entries outside [low, high], in [0, 1]: what every reward that clamps does not see. For
    evaluation.
    """

    @property
    def differentiable(self) -> bool:
        return False

    def score(self, samples: Tensor, context: Any) -> Tensor:
        outside = (samples < self.low) | (samples > self.high)
        return at_least_float32(outside, samples).flatten(1).mean(1)


@dataclass(frozen=True)
class JPEGSize(_Ranged):
    """Size of each sample as a JPEG file in kB (1000 bytes), header included; `-JPEGSize()` is
    compressibility (2305.13301 5.1).

    Entries beyond the range are clamped before the encoder sees them; evaluate `Saturation` beside it.

    Args:
        low, high: values of black and white in the samples, (B, H, W), (B, 1, H, W) or (B, 3, H, W).
        quality: Pillow's scale, 1 to 95.

    Cost: one encoding per sample on the CPU. Needs Pillow.
    """

    quality: int = 95

    @property
    def differentiable(self) -> bool:
        return False

    def score(self, samples: Tensor, context: Any) -> Tensor:
        if samples.ndim not in (3, 4) or samples.ndim == 4 and samples.shape[1] not in (1, 3):
            raise ValueError(
                f"JPEGSize: got samples of shape {tuple(samples.shape)}, expected (B, H, W) or (B, 1 or 3, "
                "H, W); decode latents first"
            )
        # NaN has no byte of its own: let it through to the caller's check of finite rewards
        lost = samples.isnan().flatten(1).any(1)
        bytes_ = (255 * self.unit(samples.detach()).nan_to_num().clamp(0, 1)).round().to("cpu", torch.uint8)
        pillow, sizes = library("PIL.Image", "JPEGSize", "rewards"), []
        for image in bytes_:
            file = io.BytesIO()
            pixels = image if image.ndim == 2 else image.permute(1, 2, 0).squeeze(-1)
            pillow.fromarray(pixels.contiguous().numpy()).save(file, format="JPEG", quality=self.quality)
            sizes.append(file.tell() / 1000)
        values = torch.tensor(sizes, dtype=at_least_float32(samples[:0]).dtype, device=samples.device)
        return values.masked_fill(lost, float("nan"))
