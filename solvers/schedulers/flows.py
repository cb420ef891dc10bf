"""Conventions of schedulers of rectified flows."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..prediction import FLOW, Prediction
from ..process import Process, RectifiedFlow, as_time
from .convention import Convention
from .scaled_call import Negated, Scales


@dataclass(frozen=True)
class Flow(Convention):
    """(1 - sigma) x0 + sigma eps and its velocity; labels are sigma times the training steps."""

    def process(self, s: Any) -> Process:
        return RectifiedFlow()

    def time(self, s: Any, label: Tensor) -> float:
        return float(s.sigmas[s.step_index])

    def end(self, s: Any) -> float:
        return float(s.sigmas[-1])

    def nodes(self, s: Any) -> list[float]:
        return s.sigmas.tolist()

    def near(self, s: Any) -> tuple[Tensor, Tensor]:
        return as_time([0.0, 1.0]), as_time([0.0, float(s.config.num_train_timesteps)])

    def prediction(self, s: Any) -> Prediction:
        return FLOW


@dataclass(frozen=True)
class DataWard(Flow):
    """MiniMax-H3: the network's velocity points to the data, and is told 1 - sigma."""

    def time(self, s: Any, label: Tensor) -> float:
        return 1.0 - float(label)

    def near(self, s: Any) -> tuple[Tensor, Tensor]:
        return as_time([0.0, 1.0]), as_time([1.0, 0.0])

    def scales(self, s: Any) -> Scales:
        return Negated()
