"""Conventions of schedulers whose label is an angle, or is the process's own time."""

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..prediction import FLOW, Prediction, V
from ..process import CosineVP, Process, as_time
from .clocks import Arc
from .convention import Convention, Turn


@dataclass(frozen=True)
class Quarter(Convention):
    """iPNDM: alpha = cos(pi t/2), and the label is t. Its step takes sigma x + alpha (answer) for the noise."""

    def process(self, s: Any) -> Process:
        return Arc()

    def time(self, s: Any, label: Tensor) -> float:
        return float(label)

    def end(self, s: Any) -> float:
        return 0.0

    def nodes(self, s: Any) -> list[float]:
        return [*s.timesteps.tolist(), 0.0]

    def near(self, s: Any) -> tuple[Tensor, Tensor]:
        return as_time([0.0, 1.0]), as_time([0.0, 1.0])

    def prediction(self, s: Any) -> Prediction:
        return V


@dataclass(frozen=True)
class TrigFlow(Quarter):
    """SCM: x = cos(t) x0 + sin(t) sigma_data eps and its velocity; the label is t."""

    def process(self, s: Any) -> Process:
        return Arc(max(math.pi / 2, float(s.timesteps[0])), float(s.config.sigma_data))

    def labels(self, s: Any) -> list[Tensor]:
        return list(s.timesteps[:-1])  # the last is where it ends

    def end(self, s: Any) -> float:
        return float(s.timesteps[-1])

    def near(self, s: Any) -> tuple[Tensor, Tensor]:
        return as_time([0.0, 2.0]), as_time([0.0, 2.0])

    def prediction(self, s: Any) -> Prediction:
        return FLOW


@dataclass(frozen=True)
class CosineLabels(Quarter):
    """Wuerstchen's: the cosine process, and the label is t, one for each sample."""

    def process(self, s: Any) -> Process:
        return CosineVP(s.config.s)

    def labels(self, s: Any) -> list[Tensor]:
        return list(s.timesteps[:-1])

    def step(self, s: Any, turn: Turn, options: dict[str, Any]) -> Tensor:
        out, label, x, k = turn
        return super().step(s, (out, label.expand(len(x)), x, k), options)
