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
        self.whole = whole
        order = times.argsort()
        # calls at one time have one label
        order = order[times[order].diff(prepend=times.min()[None] - 1) > 0]
        times, labels, levels = times[order], labels[order], levels[order]
        # a time that went through float32 is still that of its call: 1e-6 around each, or up to halfway to the next
        beside = (times.diff(append=times[-1:] + 1) / 2).minimum(times.diff(prepend=times[:1] - 1) / 2)
        around = beside.minimum(1e-6 * times.abs().clamp(min=1e-3 * float(near[0].abs().max())))
        edges = torch.cat([near[0], times - around, times + around]).unique()
        middle = torch.cat([edges[:1] - 1, (edges[1:] + edges[:-1]) / 2, edges[-1:] + 1])
        nearest = (middle[:, None] - times).abs().argmin(1)
        own = (middle - times[nearest]).abs() < around[nearest]
        cell = (torch.searchsorted(near[0], middle) - 1).clamp(0, len(near[0]) - 2)
        left, right = (each[cell] for each in near), (each[cell + 1] for each in near)
        (t, label), (t_next, label_next) = left, right
        inside = (middle > near[0][0]) & (middle < near[0][-1])
        slope = torch.where(inside, (label_next - label) / (t_next - t), 0.0)
        start = torch.where(middle < near[0][-1], label, label_next) - slope * t
        # between two edges both the label and the level are straight lines in t: offsets and slopes, (2, 2, E + 1)
        offsets = torch.where(own, labels[nearest], start), torch.where(own, levels[nearest], 0.0)
        slopes = torch.where(own, 0.0, slope), torch.where(own, 0.0, 1.0)
        self.edges, self.lines = edges, torch.stack([*offsets, *slopes]).unflatten(0, (2, 2))

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, TableLabels)
            and torch.equal(self.edges, other.edges)
            and torch.equal(self.lines, other.lines)
        )

    def __hash__(self) -> int:
        return hash(tuple(self.edges.tolist()))

    def __repr__(self) -> str:
        return f"TableLabels({len(self.edges)} edges)"

    def __call__(self, t: Tensor, process: Process) -> Tensor:
        return self.both(t)[0]

    def both(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The label, and the process's time, of the call at t."""
        at = t.double().contiguous()
        cell = torch.searchsorted(self.edges.to(t.device), at, right=True)
        lines = self.lines.to(t.device).index_select(2, cell)  # half the time of an index in brackets
        values = torch.addcmul(lines[0], lines[1], at)
        told, true = values[0], values[1]
        return told.round().long() if self.whole else told.to(t), true.to(t)
