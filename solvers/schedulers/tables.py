"""Conventions of schedulers whose times are whole labels into a table of alpha_bar."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..process import DiscreteVP, Process, as_time
from .convention import Convention, Turn


@dataclass(frozen=True)
class Table(Convention):
    """Whole labels into a table of alpha_bar: DDIM, DDPM, PNDM, LCM, TCD. The time is the label."""

    def process(self, s: Any) -> Process:
        return DiscreteVP(s.alphas_cumprod)

    def time(self, s: Any, label: Tensor) -> float:
        return float(label)

    def end(self, s: Any) -> float:
        return -1.0 if float(getattr(s, "final_alpha_cumprod", 1.0)) == 1.0 else 0.0

    def nodes(self, s: Any) -> list[float]:
        labels = getattr(s, "_timesteps", s.timesteps)  # PNDM's own, without its half steps
        return [*sorted({float(each) for each in labels}, reverse=True), self.end(s)]

    def near(self, s: Any) -> tuple[Tensor, Tensor]:
        return as_time([-1.0, 0.0, len(s.alphas_cumprod) - 1.0]), as_time(
            [0.0, 0.0, len(s.alphas_cumprod) - 1.0]
        )


@dataclass(frozen=True)
class RisingTable(Table):
    """DDIM from data to noise: the state is one step cleaner than the label that the network is told."""

    def time(self, s: Any, label: Tensor) -> float:
        stride = s.config.num_train_timesteps // s.num_inference_steps
        clean = -1.0 if float(s.initial_alpha_cumprod) == 1.0 else 0.0
        at = float(label) - stride
        return min(at, len(s.alphas_cumprod) - 1.0) if at >= 0 else clean

    def end(self, s: Any) -> float:
        return float(s.timesteps[-1])

    def nodes(self, s: Any) -> list[float]:
        levels = [self.time(s, label) for label in s.timesteps]
        return sorted({*levels, self.end(s)})


@dataclass(frozen=True)
class TwoPredictions(Table):
    """CogVideoX's DPM: `step` wants the data prediction of the turn before, which the pipeline carries."""

    def step(self, s: Any, turn: Turn, options: dict[str, Any]) -> Tensor:
        out, label, x, k = turn
        before = s.timesteps[k - 1] if k else None
        x, s.data_before = s.step(
            out, getattr(s, "data_before", None), label, before, x, return_dict=False, **options
        )
        return x


@dataclass(frozen=True)
class NextLabel(Table):
    """unCLIP: `step` wants the next label."""

    def step(self, s: Any, turn: Turn, options: dict[str, Any]) -> Tensor:
        out, label, x, k = turn
        after = s.timesteps[k + 1] if k + 1 < len(s.timesteps) else None
        return s.step(out, label, x, prev_timestep=after, return_dict=False, **options)[0]
