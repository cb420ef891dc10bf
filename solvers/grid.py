"""Grids: where the steps are. A grid is a pure function from a process to a float64 vector of times."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from .checked import CheckedFields
from .kinds import check_kind
from .process import EDM, DiscreteVP, Process, as_table, as_time
from .wanted import Positive, Wanted


class Grid(CheckedFields, ABC):
    """`times(process)` gives n + 1 float64 times, monotone in either direction (noise to data is the usual one).

    Attributes:
        rises: whether it says that it may lead from data to noise.
        repeats: whether it says that nodes may come twice in a row.
    """

    rises = repeats = False

    @abstractmethod
    def times(self, process: Process) -> Tensor:
        """The nodes, first to last."""


@dataclass(frozen=True)
class _Spaced(Grid):
    """n steps from time `start` to time `end` (defaults: the process's t_max and t_min)."""

    n: Annotated[int, Wanted("a whole number of steps; times themselves go into GivenTimes")]
    start: float | None = None
    end: float | None = None

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(
                f"{type(self).__name__}: got n={self.n}, expected at least one step; pass n >= 1"
            )

    def ends(self, process: Process) -> tuple[float, float]:
        return (
            process.t_max if self.start is None else self.start,
            process.t_min if self.end is None else self.end,
        )

    def finite(self, process: Process) -> tuple[Tensor, Tensor]:
        """lambda at both ends, refused where infinite."""
        start, end = self.ends(process)
        lams = process.lam(start), process.lam(end)
        if not all(bool(lam.isfinite()) for lam in lams):
            raise ValueError(
                f"{type(self).__name__}: got lambda {float(lams[0]):.4g} to {float(lams[1]):.4g}, expected "
                "finite ends; pass start= and end= inside the process, or use UniformT"
            )
        return lams

    def pinned(self, process: Process, times: Tensor) -> Tensor:
        """The ends exactly as asked for, free of the rounding of an inverse."""
        times = times.clone()
        times[0], times[-1] = self.ends(process)
        return times


class UniformT(_Spaced):
    """t_i = start + (end - start) i/n."""

    def times(self, process: Process) -> Tensor:
        start, end = self.ends(process)
        return torch.linspace(start, end, self.n + 1, dtype=torch.float64)


class UniformLambda(_Spaced):
    """lambda_i equally spaced: equal ratios of signal to noise."""

    def times(self, process: Process) -> Tensor:
        first, last = self.finite(process)
        lam = torch.linspace(float(first), float(last), self.n + 1, dtype=torch.float64)
        return self.pinned(process, process.time(lam))


@dataclass(frozen=True)
class Karras(_Spaced):
    """(sigma/alpha)^(1/rho) equally spaced. Source: arXiv 2206.00364, eq. 5.

    Where the end has sigma = 0, n - 1 steps lead to sigma/alpha = `low` and one from there to the end: `Karras(18)` on
    EDM() is the published grid, 80 to 0.002, then 0.

    Args:
        low: default EDM's 0.002 on EDM(), the first level of the table on a DiscreteVP; elsewhere there is none.
    """

    rho: Positive = 7.0
    low: Positive | None = None

    def times(self, process: Process) -> Tensor:
        start, end = self.ends(process)
        low = self._low(process)
        if low is not None and float(process.sigma(end)) == 0:
            if self.n == 1:
                return as_time([start, end])
            last = float(process.time(-math.log(low)))
            return torch.cat([Karras(self.n - 1, start, last, self.rho).times(process), as_time([end])])
        first, final = (torch.exp(-lam / self.rho) for lam in self.finite(process))
        level = torch.linspace(float(first), float(final), self.n + 1, dtype=torch.float64)
        return self.pinned(process, process.time(-self.rho * level.log()))

    def _low(self, process: Process) -> float | None:
        if self.low is None and isinstance(process, EDM):
            return 0.002
        if self.low is None and isinstance(process, DiscreteVP):
            return math.exp(-float(process.lam(0.0)))
        return self.low


class Quadratic(_Spaced):
    """sqrt(t) equally spaced, t counted from the process's clean end."""

    def times(self, process: Process) -> Tensor:
        first, last = (max(t - process.t_min, 0.0) ** 0.5 for t in self.ends(process))
        root = torch.linspace(first, last, self.n + 1, dtype=torch.float64)
        return self.pinned(process, process.t_min + root**2)


@dataclass(frozen=True)
class Shifted(_Spaced):
    """t' = shift t / (1 + (shift - 1) t) of a uniform grid in t. Source: Esser et al. 2024, arXiv 2403.03206,
    eq. 23.
    """

    shift: Positive = 3.0

    def times(self, process: Process) -> Tensor:
        start, end = self.ends(process)
        t = torch.linspace(start, end, self.n + 1, dtype=torch.float64)
        width = process.t_max - process.t_min
        u = (t - process.t_min) / width
        return process.t_min + width * self.shift * u / (1 + (self.shift - 1) * u)


@dataclass(frozen=True)
class _Labels(Grid):
    """Integer labels of a discrete process, then its clean end t_min."""

    n: int

    def labels(self, count: int) -> Tensor:
        raise NotImplementedError

    def times(self, process: Process) -> Tensor:
        count = int(process.t_max) + 1
        if process.t_min != -1.0 or not 1 <= self.n <= count:
            raise ValueError(
                f"{type(self).__name__}: got n={self.n} on {process}, expected 1 to T steps on a "
                "DiscreteVP of T; take UniformT or UniformLambda on another process"
            )
        return torch.cat([self.labels(count).to(torch.float64), torch.tensor([-1.0], dtype=torch.float64)])


class Linspace(_Labels):
    """n labels from T-1 to 0, rounded."""

    def labels(self, count: int) -> Tensor:
        return torch.linspace(count - 1, 0, self.n, dtype=torch.float64).round()


class Leading(_Labels):
    """Multiples of floor(T/n), plus 1 as Stable Diffusion has it (Lin et al. 2023, arXiv 2305.08891, table 2)."""

    def labels(self, count: int) -> Tensor:
        offset = 1 if self.n < count else 0
        return torch.arange(self.n, dtype=torch.float64).flip(0) * (count // self.n) + offset


class Trailing(_Labels):
    """T, T - T/n, ... rounded, minus 1: the last label T-1 is always used (arXiv 2305.08891, table 2)."""

    def labels(self, count: int) -> Tensor:
        return (count - torch.arange(self.n, dtype=torch.float64) * count / self.n).round() - 1


class GivenTimes(Grid):
    """The times as given: (N+1,) for all samples, or (N+1, B), one column per sample."""

    def __init__(self, values: Tensor | Sequence[float]) -> None:
        wanted = "times (N+1,) or (N+1, B), a tensor or a list of numbers; write GivenTimes([1.0, 0.5, 0.03])"
        self.values = as_table("values", values, wanted).clone()

    def times(self, process: Process) -> Tensor:
        return self.values.clone()


class Rising(Grid):
    """The nodes of `grid` from data to noise, to encode along: says that the direction is meant.

    Args:
        grid: a Grid or times, in either direction.
    """

    rises = True

    def __init__(self, grid: "Grid | Tensor | Sequence[float]") -> None:
        self.grid = _as_grid(grid)
        self.repeats = self.grid.repeats

    def __repr__(self) -> str:
        return f"Rising({self.grid!r})"

    def times(self, process: Process) -> Tensor:
        times = self.grid.times(process)
        return times.flip(0) if bool((times[0] > times[-1]).any()) else times


class Repeating(Grid):
    """The nodes of `grid`, some of which come twice in a row: says that steps of length zero are meant.

    Such a step leaves the state as it is and makes no network call, and no history knows of it. Schedulers have them
    at the end (a last noise level repeated). A last node that comes twice asks correctors (UniPC, SA-Solver) to
    correct the last state too, for one call there: elsewhere they leave it as predicted.

    Args:
        grid: a Grid or times, in either direction.
    """

    repeats = True

    def __init__(self, grid: "Grid | Tensor | Sequence[float]") -> None:
        self.grid = _as_grid(grid)
        self.rises = self.grid.rises

    def __repr__(self) -> str:
        return f"Repeating({self.grid!r})"

    def times(self, process: Process) -> Tensor:
        return self.grid.times(process)


Times = Grid | Tensor | Sequence[float]  # a Grid, or times (N+1,) or (N+1, B) in either direction


def _as_grid(grid: Grid | Tensor | Sequence[float]) -> Grid:
    if isinstance(grid, Grid):
        return grid
    if isinstance(grid, str) or not hasattr(grid, "__len__"):
        check_kind(
            "grid", grid, Grid, "a Grid or a sequence of times; write UniformLambda(20, start=1.0, end=0.03)"
        )
    return GivenTimes(grid)


def first_of_each(times: Tensor) -> Tensor:
    """(N+1,) whether a node is another than the one before it, for any sample."""
    moved = (times.diff(dim=0) != 0).reshape(len(times) - 1, -1).any(1)
    return torch.cat([moved.new_ones(1), moved])


def checked_times(grid: Grid | Tensor | Sequence[float], process: Process) -> Tensor:
    """The nodes of `grid`, refused unless finite, strictly monotone (but for `Repeating`) and inside the process."""
    check_kind("process", process, Process, "a Process such as VP(); pass denoiser.process")
    grid = _as_grid(grid)
    t = grid.times(process)
    if t.ndim not in (1, 2) or len(t) < 2:
        raise ValueError(f"grid: got shape {tuple(t.shape)}, expected (N+1,) or (N+1, B) with N >= 1")
    nodes = t[first_of_each(t)] if grid.repeats else t
    steps = nodes.diff(dim=0)
    if not len(steps):
        raise ValueError(f"grid: got {len(t)} times that are one, expected two that differ; move one of them")
    if not bool(t.isfinite().all()) or not (bool((steps < 0).all()) or bool((steps > 0).all())):
        wrong = ~(steps * steps[:1] > 0) | ~steps.isfinite()  # NaN compares as False
        at = int(wrong.reshape(len(steps), -1).any(1).int().argmax())
        raise ValueError(
            f"grid: got times {nodes[at].tolist()} then {nodes[at + 1].tolist()} at step {at}, expected strictly "
            "falling (or strictly rising) finite times; sort them and drop duplicates, or write Repeating(grid) where "
            "steps of length zero are meant"
        )
    slack = 1e-9 * (process.t_max - process.t_min)
    if float(t.min()) < process.t_min - slack or float(t.max()) > process.t_max + slack:
        raise ValueError(
            f"grid: got times in [{float(t.min()):.6g}, {float(t.max()):.6g}], expected inside "
            f"[{process.t_min:.6g}, {process.t_max:.6g}] of {process}; move the grid or widen the process"
        )
    return t
