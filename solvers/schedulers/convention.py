"""Convention: what a family of schedulers means by its state, its times and its labels."""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from ..prediction import DATA, FLOW, NOISE, Prediction, V
from ..process import Process
from .scaled_call import Scales

PREDICTION = {
    "epsilon": NOISE, "sample": DATA, "original_sample": DATA, "v_prediction": V, "flow_prediction": FLOW,
}  # fmt: skip
Turn = tuple[Tensor, Tensor, Tensor, int]
"""The network's answer, the label, the state, the number of the turn."""


class Convention(ABC):
    """Of a scheduler `s` on which `set_timesteps` has been called."""

    @abstractmethod
    def process(self, s: Any) -> Process:
        """The process whose states it steps."""

    @abstractmethod
    def time(self, s: Any, label: Tensor) -> float:
        """The process's time of the state that goes into the network now."""

    @abstractmethod
    def end(self, s: Any) -> float:
        """That of the state it ends with."""

    @abstractmethod
    def nodes(self, s: Any) -> list[float]:
        """The times between which its steps lead, repeated ones included."""

    @abstractmethod
    def near(self, s: Any) -> tuple[Tensor, Tensor]:
        """(times, labels) over the whole process, times rising: what the network is told between the calls."""

    def labels(self, s: Any) -> list[Tensor]:
        """What the network is told, call by call."""
        return list(s.timesteps)

    def prediction(self, s: Any) -> Prediction:
        """What the (preconditioned) network returns."""
        return PREDICTION[s.config.prediction_type]

    def scales(self, s: Any) -> Scales | None:
        """How the network is wrapped."""
        return None

    def step(self, s: Any, turn: Turn, options: dict[str, Any]) -> Tensor:
        """The next state, as the pipelines ask for it."""
        out, label, x, _ = turn
        return s.step(out, label, x, return_dict=False, **options)[0]
