"""Conventions of schedulers whose networks are preconditioned as EDM's are, and know noise levels alone."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .levels import Exploding
from .scaled_call import Scales, SkipScales


@dataclass(frozen=True)
class Karras2022(Exploding):
    """EDM's own preconditioning; labels are log(sigma)/4."""

    def near(self, s: Any) -> tuple[Tensor, Tensor]:
        top = math.log(float(s.sigmas.max()))
        level = torch.linspace(top - 16.0, top, 4096, dtype=torch.float64)
        return level.exp(), level / 4

    def scales(self, s: Any) -> Scales:
        sign = -1.0 if s.config.prediction_type == "v_prediction" else 1.0
        return SkipScales(float(s.config.sigma_data), sign)


@dataclass(frozen=True)
class CosineKarras(Karras2022):
    """The same for labels atan(sigma) 2/pi."""

    def near(self, s: Any) -> tuple[Tensor, Tensor]:
        times, _ = super().near(s)
        return times, times.atan() * 2 / math.pi


@dataclass(frozen=True)
class ConsistencyLevels(Karras2022):
    """Consistency models: F is mended to the identity at sigma_min; labels are 250 log(sigma)."""

    def near(self, s: Any) -> tuple[Tensor, Tensor]:
        times, labels = super().near(s)
        return times, 1000 * labels

    def end(self, s: Any) -> float:
        return float(s.config.sigma_min)

    def scales(self, s: Any) -> Scales:
        return SkipScales(float(s.config.sigma_data), low=float(s.config.sigma_min))
