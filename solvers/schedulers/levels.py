"""Conventions of schedulers whose times are noise levels sigma, on networks of a table of alpha_bar."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..prediction import DATA, Prediction
from ..process import EDM, Process, RectifiedFlow, as_time
from .clocks import NoiseLevelVP
from .convention import Convention
from .scaled_call import Scales, SkipScales, UnitInput


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


def trained_levels(s: Any) -> tuple[Tensor, Tensor]:
    """sigma/alpha of every training step, and its label."""
    table = as_time(s.alphas_cumprod)
    levels = ((1 - table) / table).sqrt()
    known = levels.isfinite()
    return levels[known], torch.arange(len(table), dtype=torch.float64)[known]
