"""Conventions: what a family of schedulers means by its state, its times and its labels."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..prediction import DATA, FLOW, NOISE, Prediction, V
from ..process import EDM, CosineVP, DiscreteVP, Process, RectifiedFlow, as_time
from .clocks import Arc, NoiseLevelVP
from .scaled_call import Negated, Scales, SkipScales, UnitInput

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


@dataclass(frozen=True)
class UnitVariance(Convention):
    """A table of `sigmas` and a state of unit variance, or a flow: DPM-Solver, DEIS, UniPC, SA-Solver."""

    def process(self, s: Any) -> Process:
        if s.config.get("use_flow_sigmas", False):
            return RectifiedFlow()
        return NoiseLevelVP(t_max=max(1e4, float(s.sigmas.max())))

    def time(self, s: Any, label: Tensor) -> float:
        return float(s.sigmas[s.step_index])

    def end(self, s: Any) -> float:
        return float(s.sigmas[-1])

    def nodes(self, s: Any) -> list[float]:
        return s.sigmas.tolist()

    def near(self, s: Any) -> tuple[Tensor, Tensor]:
        if s.config.get("use_flow_sigmas", False):
            return as_time([0.0, 1.0]), as_time([0.0, float(s.config.num_train_timesteps)])
        return trained_levels(s)


@dataclass(frozen=True)
class Exploding(Convention):
    """x0 + sigma eps, shown to the network as x/sqrt(1 + sigma^2): the Euler family, Heun, LMS."""

    def process(self, s: Any) -> Process:
        return EDM(t_max=max(80.0, float(s.sigmas.max())))

    def time(self, s: Any, label: Tensor) -> float:
        first = getattr(s, "state_in_first_order", True)
        return float(s.sigmas[s.step_index]) if first else self.stage(s)

    def stage(self, s: Any) -> float:
        """The time of a second call in a step."""
        return float(s.sigmas[s.step_index])

    def end(self, s: Any) -> float:
        return float(s.sigmas[-1])

    def nodes(self, s: Any) -> list[float]:
        return s.sigmas.tolist()

    def near(self, s: Any) -> tuple[Tensor, Tensor]:
        return trained_levels(s)

    def prediction(self, s: Any) -> Prediction:
        return DATA if isinstance(self.scales(s), SkipScales) else super().prediction(s)

    def scales(self, s: Any) -> Scales:
        if s.config.prediction_type == "v_prediction":
            return SkipScales(sign=-1.0)
        return UnitInput()


@dataclass(frozen=True)
class Interpolated(Exploding):
    """KDPM2: stages at `sigmas_interpol`, `shift` places from the step's own."""

    shift: int = 0

    def stage(self, s: Any) -> float:
        return float(s.sigmas_interpol[s.step_index + self.shift])


@dataclass(frozen=True)
class Midpoint(Exploding):
    """DPM-Solver SDE: the stage lies halfway in lambda."""

    def stage(self, s: Any) -> float:
        return float(s.mid_point_sigma)


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


def trained_levels(s: Any) -> tuple[Tensor, Tensor]:
    """sigma/alpha of every training step, and its label."""
    table = as_time(s.alphas_cumprod)
    levels = ((1 - table) / table).sqrt()
    known = levels.isfinite()
    return levels[known], torch.arange(len(table), dtype=torch.float64)[known]
