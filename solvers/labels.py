"""Labels: what a network is told of the time, where that is not the process's own t.

A label is any function `(t, process) -> labels` of times (B,) in the state's dtype.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .checked import CheckedFields
from .cut_off import cut_off
from .process import DiscreteVP, Process, as_table, as_time


class Label(CheckedFields, ABC):
    """Times (B,) as a network wants them."""

    @abstractmethod
    def __call__(self, t: Tensor, process: Process) -> Tensor:
        """Labels (B,) of times (B,)."""

    def check(self, times: Tensor, process: Process) -> None:  # noqa: B027  (most hold at any time)
        """Raise ValueError where a network would not be told what it expects at one of `times` (float64, any shape).
        Before a run.
        """


@dataclass(frozen=True)
class OwnTime(Label):
    """t itself."""

    def __call__(self, t: Tensor, process: Process) -> Tensor:
        return t


@dataclass(frozen=True)
class Scaled(Label):
    """factor t + offset. `Scaled(999)` for a network of 0 .. 999 under a process of t in [0, 1]."""

    factor: float
    offset: float = 0.0

    def __repr__(self) -> str:
        return f"Scaled({self.factor!r}{f', offset={self.offset!r}' if self.offset else ''})"

    def __call__(self, t: Tensor, process: Process) -> Tensor:
        return self.factor * t + self.offset


@dataclass(frozen=True)
class NoiseLevel(Label):
    """sigma(t)/alpha(t)."""

    def __call__(self, t: Tensor, process: Process) -> Tensor:
        return torch.exp(-process.lam(t)).to(t)


@dataclass(frozen=True)
class LogNoiseLevel(Label):
    """factor log(sigma(t)/alpha(t)). EDM's networks take factor = 1/4 (arXiv 2206.00364, table 1)."""

    factor: float = 1.0

    def __call__(self, t: Tensor, process: Process) -> Tensor:
        return (-self.factor * process.lam(t)).to(t)


class LabelTable(Label):
    """labels[t] for a `DiscreteVP` whose steps go by other labels, linear between two of them: 50 steps kept of
    1000 go by `LabelTable([0, 20, 40, ...])`. Before the first step (t < 0) the first label.

    Args:
        labels: (T,), one for each step of the process's table.
    """

    def __init__(self, labels: Tensor | list[float]) -> None:
        self.labels = as_time(labels).detach().cpu()
        if self.labels.ndim != 1 or len(self.labels) < 2:
            raise ValueError(
                f"LabelTable: got shape {tuple(self.labels.shape)}, expected (T,), one label for each step of the "
                "process's table; pass a flat list"
            )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LabelTable) and torch.equal(self.labels, other.labels)

    def __hash__(self) -> int:
        return hash(tuple(self.labels.tolist()))

    def __repr__(self) -> str:
        return f"LabelTable({len(self.labels)} labels)"

    def __call__(self, t: Tensor, process: Process) -> Tensor:
        if not isinstance(process, DiscreteVP) or process.t_max != len(self.labels) - 1:
            raise ValueError(
                f"LabelTable: got {len(self.labels)} labels on {process}, expected a DiscreteVP of as many steps; pass "
                "the labels of this table"
            )
        labels = self.labels.to(t)
        place = cut_off(t, low=0.0)
        cell = place.detach().floor().clamp(max=len(labels) - 2).long()
        return torch.lerp(labels[cell], labels[cell + 1], place - cell)


@dataclass(frozen=True)
class LevelIndex(Label):
    """Where log(sigma/alpha) stands among a `DiscreteVP`'s own levels: the index, linear in that logarithm between two.

    k-diffusion's `sigma_to_t`. t itself, which is linear in log alpha, is the same at every level of the table, and
    on Stable Diffusion's up to 0.09 away between two. Before the first level 0.
    """

    def __call__(self, t: Tensor, process: Process) -> Tensor:
        if not isinstance(process, DiscreteVP):
            raise ValueError(
                f"LevelIndex: got {process}, expected a DiscreteVP; build the denoiser on the table that the network "
                "was trained on, and wrap it in OnProcess to sample on another process"
            )
        place = as_time(t)
        low = place.detach().floor().clamp(0, process.t_max - 1)
        here, left, right = (process.lam(at) for at in (place, low, low + 1))
        # at alpha = 0 a level is infinite, and nothing stands between it and the one before
        part = torch.where(right.isinf(), place - low, (left - here) / (left - right))
        return (low + cut_off(part, 0.0, 1.0)).to(t)


@dataclass(frozen=True)
class Nearest(Label):
    """`inner`'s labels rounded to whole ones, in t's dtype: told of up to half a label of other noise than there is.

    `Nearest(LevelIndex())` is ComfyUI's time and k-diffusion's with `quantize`; `WholeLabels(Nearest(...))` the same
    as int64, for networks that look it up.
    """

    inner: Callable[[Tensor, Process], Tensor] = OwnTime()

    def __call__(self, t: Tensor, process: Process) -> Tensor:
        return self.inner(t, process).round()

    def check(self, times: Tensor, process: Process) -> None:
        if isinstance(self.inner, Label):
            self.inner.check(times, process)


class LabelsAt(Label):
    """The label of each of the plan's own nodes, given with it: for labels that follow no formula, as the rounded
    ones of a Karras grid, or those of a scheduler.

        LabelsAt(plan.times[:-1], scheduler.timesteps)

    Meant for a run of a plan: a call at any other time is refused before the first one (`check`), and is NaN where
    nobody asked before. Labels are constants: times that require grad are refused.

    Args:
        times: (K,), in any order; a time may come twice with one label.
        labels: (K,), one each.
    """

    def __init__(self, times: Tensor | Sequence[float], labels: Tensor | Sequence[float]) -> None:
        wanted = "numbers (K,), a tensor or a list"
        given, labels = as_table("times", times, wanted), as_table("labels", labels, wanted)
        if given.ndim != 1 or given.shape != labels.shape or not len(given):
            raise ValueError(
                f"LabelsAt: got times {tuple(given.shape)} and labels {tuple(labels.shape)}, expected (K,) both, a "
                "label for each time; leave out the last node of a plan that makes no call there"
            )
        order = given.argsort(stable=True)
        new = torch.cat([torch.ones(1, dtype=torch.bool), given[order].diff() != 0])
        self.times, self.labels = given[order][new], labels[order][new]
        place = torch.searchsorted(self.times, given)
        clash = self.labels[place] != labels
        if bool(clash.any()):
            raise ValueError(
                f"LabelsAt: got two labels at t={float(given[clash][0]):.9g}, expected one for each time; pass one"
            )
        if bool((self.times.float().diff() == 0).any()):
            raise ValueError(
                "LabelsAt: got times that are one in float32, in which a network is told them; merge them"
            )

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, LabelsAt)
            and torch.equal(self.times, other.times)
            and torch.equal(self.labels, other.labels)
        )

    def __hash__(self) -> int:
        return hash((tuple(self.times.tolist()), tuple(self.labels.tolist())))

    def __repr__(self) -> str:
        return f"LabelsAt({len(self.times)} times, {float(self.times[0]):.6g} .. {float(self.times[-1]):.6g})"

    def __call__(self, t: Tensor, process: Process) -> Tensor:
        if t.requires_grad:
            raise ValueError(
                "LabelsAt: got times that require grad, expected constants: labels given one by one have no "
                "derivative; take a label that is a function of t, such as LabelTable"
            )
        times, labels = self.times.to(t), self.labels.to(t)
        nearest = torch.bucketize(t, (times[1:] + times[:-1]) / 2)
        near = (times[nearest] - t).abs() <= self._slack(t.dtype)
        return torch.where(near, labels[nearest], torch.nan)

    def check(self, times: Tensor, process: Process) -> None:
        flat = times.flatten()
        off = self(flat, process).isnan()
        if bool(off.any()):
            raise ValueError(
                f"LabelsAt: got a network call at t={float(flat[off][0]):.9g}, expected one of the {len(self.times)} "
                f"times with a label, {float(self.times[0]):.9g} .. {float(self.times[-1]):.9g}; give its label too, "
                "or take a method without stages between nodes"
            )

    def _slack(self, dtype: torch.dtype) -> float:
        """What rounding may have made of a time."""
        return 4 * torch.finfo(dtype).eps * float(self.times.abs().max())


@dataclass(frozen=True)
class WholeLabels(Label):
    """`inner`'s labels as int64, for networks that look them up in a table.

    A run whose labels are not whole would tell the network of another noise than the state has: it is refused
    before the first call (`check`). Grids of whole labels: Trailing, Leading, Linspace on a DiscreteVP.
    """

    inner: Callable[[Tensor, Process], Tensor] = OwnTime()

    def __call__(self, t: Tensor, process: Process) -> Tensor:
        return self.inner(t, process).round().long()

    def check(self, times: Tensor, process: Process) -> None:
        """Raise ValueError where a time (float64, any shape) has no whole label; 1e-3 is allowed for rounding."""
        if isinstance(self.inner, Label):
            self.inner.check(times, process)
        flat = times.flatten()
        labels = self.inner(flat, process)
        off = (labels - labels.round()).abs() > 1e-3
        if bool(off.any()):
            raise ValueError(
                f"WholeLabels: got label {float(labels[off][0]):.6g} at t={float(flat[off][0]):.6g}, expected whole "
                "labels at every network call; take a grid of them (Trailing, Leading, Linspace) and a method without "
                "stages between nodes"
            )
