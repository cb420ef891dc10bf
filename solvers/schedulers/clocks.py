"""Processes that diffusers' schedulers go by, where the library's own do not say it, and labels of their times."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..labels import Label
from ..process import Process, as_time


@dataclass(frozen=True)
class NoiseLevelVP(Process):
    """alpha = 1/sqrt(1 + t^2), sigma = t/sqrt(1 + t^2): variance preserving, its time is sigma/alpha.

    The clock of schedulers that hold `sigmas` and a state of unit variance: DPM-Solver, DEIS, UniPC, SA-Solver.
    """

    t_min: float = 0.0
    t_max: float = 1e4

    def log_alpha(self, t: Tensor | float) -> Tensor:
        return -0.5 * torch.log1p(as_time(t) ** 2)

    def log_sigma(self, t: Tensor | float) -> Tensor:
        return as_time(t).log() + self.log_alpha(t)

    def lam(self, t: Tensor | float) -> Tensor:
        return -as_time(t).log()

    def time(self, lam: Tensor | float) -> Tensor:
        return torch.exp(-as_time(lam))


@dataclass(frozen=True)
class Arc(Process):
    """alpha = cos(pi t/(2 quarter)), sigma = data sin(pi t/(2 quarter)), t in [0, quarter].

    iPNDM's clock (quarter = 1), and TrigFlow's (quarter = pi/2; data is the deviation of the data and its noise).
    """

    quarter: float = 1.0
    data: float = 1.0
    t_min: float = 0.0

    @property
    def t_max(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.quarter

    def log_alpha(self, t: Tensor | float) -> Tensor:
        return self._log_sine(self.quarter - as_time(t))  # 0 exactly at the end, where a cosine is not

    def log_sigma(self, t: Tensor | float) -> Tensor:
        return self._log_sine(as_time(t)) + math.log(self.data)

    def time(self, lam: Tensor | float) -> Tensor:
        return torch.atan(torch.exp(-as_time(lam)) / self.data) * 2 * self.quarter / math.pi

    def _log_sine(self, t: Tensor) -> Tensor:
        return torch.sin(math.pi / 2 / self.quarter * t.clamp(min=0.0)).log()


class TableLabels(Label):
    """labels[k] at times[k], as a scheduler pairs them, rounded or not; elsewhere linear between `near` = (times,
    labels), a finer table.

    Args:
        times, labels, levels: (K,), for each network call; where a scheduler has two labels for one time, the times
            are told apart by some units of float32's last place, and `levels` are the true ones.
        near: two tensors (L,), times rising.
        whole: labels are whole numbers, told as int64.
    """

    def __init__(
        self, times: Tensor, labels: Tensor, levels: Tensor, near: tuple[Tensor, Tensor], whole: bool
    ) -> None:
        order = times.argsort()
        self.times, self.labels, self.levels = times[order], labels[order], levels[order]
        self.near, self.whole = near, whole

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TableLabels) and all(
            torch.equal(mine, its) for mine, its in zip(self._tables(), other._tables(), strict=True)
        )

    def __hash__(self) -> int:
        return hash(tuple(self.labels.tolist()))

    def __repr__(self) -> str:
        return f"TableLabels({len(self.labels)} labels)"

    def __call__(self, t: Tensor, process: Process) -> Tensor:
        times, labels = (each.to(t) for each in self.near)
        cell = (torch.searchsorted(times, t.contiguous()) - 1).clamp(0, len(times) - 2)
        part = (t - times[cell]) / (times[cell + 1] - times[cell])
        between = torch.lerp(labels[cell], labels[cell + 1], part.clamp(0.0, 1.0))
        told = self._own(t, self.labels, between)
        return told.round().long() if self.whole else told

    def level(self, t: Tensor) -> Tensor:
        """The process's time of what was called at t."""
        return self._own(t, self.levels, t)

    def _own(self, t: Tensor, table: Tensor, otherwise: Tensor) -> Tensor:
        """Of the call at time t, if there is one: a time that went through float32 is still the same."""
        times = self.times.to(t)
        far = (t[..., None] - times).abs()
        nearest = far.argmin(-1)
        own = far.amin(-1) <= 1e-6 * torch.maximum(t.abs(), times[-1].abs() * 1e-3)
        return torch.where(own, table.to(t)[nearest], otherwise)

    def _tables(self) -> tuple[Tensor, ...]:
        return self.times, self.labels, self.levels, *self.near
