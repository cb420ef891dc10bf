"""Brownian paths by address: every grid, in any order, sees increments of one path, and nothing of it is stored."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .noise import Addressed
from .path import Exponential, Path

BROWNIAN = 2**64 - 1  # the default stream, away from those counted from 0
DEEPEST = 40  # halvings that an address has room for


@dataclass(frozen=True)
class Brownian(Path):
    """W(stop) - W(start) of a Brownian motion W on `clock`, Var = clock(stop) - clock(start), low <= start <
    stop <= high.

    [low, high] is a lattice of `cells` 2^depth points, to which ends are rounded, as a binary tree: intervals
    of cells are split at a cell's end, cells into halves. With c = clock, m the middle of [a, b], I = W(b) -
    W(a), xi_m its own draw:

        f = (c(m) - c(a))/(c(b) - c(a)),  d = sqrt(f (1 - f) (c(b) - c(a))) xi_m
        left = f I + d,                   right = (1 - f) I - d

    Every lattice point is the middle of one interval and so the slot of one draw of `Addressed`. Hence the
    values depend on (seed, sample, stream), [low, high], `cells` and the points alone: not on the batch, on
    the order of queries, on other points asked for, or on `depth`, beyond rounding. They are drawn in float32
    and summed in float64.

    Args:
        seed, samples, stream, on_cpu: of `Addressed`. The default stream is not that of `Addressed(seed)`.
        low, high: ends in the coordinate that the tree halves; `on(plan)` takes lambda for it.
        clock: an increasing function of the coordinate. `Exponential(rate)` says which suits which method;
            the default, e^{2 lambda}, that of DDPM and SDEDPMSolverPP.
        cells: equal parts on top of the tree. A grid of cells 2^k equal steps of [low, high] falls on the
            tree's own points.
        depth: halvings of a cell, at most 40. Steps must be longer than a lattice spacing.
        keep: most increments remembered, each one float64 state. They save draws and change no value.

    Raises:
        ValueError: arguments out of range, a clock that does not increase, ends outside [low, high] or on one
            lattice point.

    Cost: in order along a grid (forwards or back), one draw an increment where its nodes are the tree's, else
    about depth - log2(N/cells). Alone: up to twice the tree's height. Source: Levy's construction; as a tree
    without storage, Li et al. 2020, arXiv 2001.01328.
    """

    seed: int
    low: float
    high: float
    clock: Callable[[float], float] = Exponential(1.0)
    samples: Sequence[int] | None = None
    stream: int = BROWNIAN
    cells: int = 1
    depth: int = 12
    keep: int = 64
    on_cpu: bool = False
    _source: Addressed = field(init=False, repr=False, compare=False)
    _kept: dict[tuple[object, ...], Tensor] = field(init=False, repr=False, compare=False)
    _alone: dict[int, "Brownian"] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not -math.inf < self.low < self.high < math.inf:
            raise ValueError(
                f"Brownian: got low={self.low}, high={self.high}, expected finite low < high; swap them"
            )
        if not (1 <= self.cells <= 2**20 and 0 <= self.depth <= DEEPEST and self.keep >= 0):
            raise ValueError(
                f"Brownian: got cells={self.cells}, depth={self.depth}, keep={self.keep}, expected cells in "
                f"1 .. 2^20, depth in 0 .. {DEEPEST} and keep >= 0"
            )
        source = Addressed(self.seed, self.samples, self.stream, self.on_cpu)
        for name, value in (("samples", source.samples), ("_source", source), ("_kept", {}), ("_alone", {})):
            object.__setattr__(self, name, value)
        self._length(0, self.cells << self.depth)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_kept": {}, "_alone": {}}

    def __call__(self, start: float, stop: float, like: Tensor) -> Tensor:
        a, b = self._ends(start, stop)
        state = torch.empty_like(like, dtype=torch.float64)
        top = self.cells << self.depth
        root = self._remembered((0, top), state)
        if root is None:
            root = self._remember(
                (0, top), state, self._draw(top, state).mul_(math.sqrt(self._length(0, top)))
            )
        pieces = self._pieces(0, top, root, a, b, state)
        total = pieces[0].clone()  # what is remembered is never handed out
        for piece in pieces[1:]:
            total += piece
        return total.to(like.dtype)

    def within(self, low: float, high: float) -> float:
        """The point of the tree's highest level: fewer draws lead to it."""
        scale = (self.cells << self.depth) / (self.high - self.low)
        first, last = math.ceil((low - self.low) * scale), math.floor((high - self.low) * scale)
        if first > last:
            return high
        points = ((last >> k) << k for k in range(self.depth + self.cells.bit_length(), -1, -1))
        return self.low + next(point for point in points if point >= first) / scale

    def each(self, starts: Sequence[float], stops: Sequence[float], like: Tensor) -> Tensor:
        if len(set(zip(starts, stops, strict=True))) <= 1:
            return super().each(starts, stops, like)
        rows = [
            self._of(k)(start, stop, like[k : k + 1]) if start != stop else torch.zeros_like(like[k : k + 1])
            for k, (start, stop) in enumerate(zip(starts, stops, strict=True))
        ]
        return torch.cat(rows)

    def _of(self, k: int) -> "Brownian":
        """The path of sample k of the batch by itself: the same numbers."""
        if k not in self._alone:
            sample = k if self.samples is None else self.samples[k]
            self._alone[k] = replace(self, samples=(sample,))
        return self._alone[k]

    def width(self, start: float, stop: float) -> float:
        return self._length(*self._ends(start, stop))

    def check(self, like: Tensor) -> None:
        self._source.check(1, like)

    def _pieces(self, lo: int, hi: int, whole: Tensor, a: int, b: int, state: Tensor) -> list[Tensor]:
        """Increments of the tree's intervals that make up [a, b], left to right; `whole` is that of [lo, hi]."""
        if a <= lo and hi <= b:
            return [whole]
        middle = self._middle(lo, hi)
        left, right = self._halves(lo, middle, hi, whole, state)
        found = self._pieces(lo, middle, left, a, b, state) if a < middle else []
        return found + (self._pieces(middle, hi, right, a, b, state) if b > middle else [])

    def _middle(self, lo: int, hi: int) -> int:
        if hi - lo > 1 << self.depth:
            return ((lo >> self.depth) + (hi >> self.depth)) // 2 << self.depth
        return (lo + hi) // 2

    def _halves(self, lo: int, middle: int, hi: int, whole: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        left, right = self._remembered((lo, middle), state), self._remembered((middle, hi), state)
        if left is None or right is None:
            before, after = self._length(lo, middle), self._length(middle, hi)
            length = before + after
            bridge = self._draw(middle, state).mul_(math.sqrt(before * (after / length)))
            left = self._remember((lo, middle), state, torch.add(bridge, whole, alpha=before / length))
            right = self._remember((middle, hi), state, (whole * (after / length)).sub_(bridge))
        return left, right

    def _draw(self, point: int, state: Tensor) -> Tensor:
        """The draw of a lattice point, the same on every depth that has it."""
        return self._source(point << (DEEPEST - self.depth), state)

    def _remembered(self, ends: tuple[int, int], state: Tensor) -> Tensor | None:
        key = (*ends, state.shape, state.device)
        value = self._kept.pop(key, None)
        return None if value is None else self._remember(ends, state, value)

    def _remember(self, ends: tuple[int, int], state: Tensor, value: Tensor) -> Tensor:
        """Last used last; single dict operations, so threads at worst draw twice."""
        self._kept[(*ends, state.shape, state.device)] = value
        for old in list(self._kept)[: max(0, len(self._kept) - self.keep)]:
            self._kept.pop(old, None)
        return value

    def _ends(self, start: float, stop: float) -> tuple[int, int]:
        """Lattice points nearest to `start` and `stop`."""
        if not start < stop:
            raise ValueError(
                f"Brownian: got start={start}, stop={stop}, expected stop later than start; swap them"
            )
        top = self.cells << self.depth
        at = [(u - self.low) / (self.high - self.low) * top for u in (start, stop)]
        if not (at[0] >= -0.5 and at[1] <= top + 0.5):
            raise ValueError(
                f"Brownian: got [{start:.6g}, {stop:.6g}], expected inside [{self.low:.6g}, "
                f"{self.high:.6g}]; widen low and high, once for all grids"
            )
        a, b = round(at[0]), round(at[1])
        if a == b:
            raise ValueError(
                f"Brownian: got {start} and {stop}, expected more than one lattice spacing, "
                f"{(self.high - self.low) / top:.3g}, between them; raise depth={self.depth}"
            )
        return a, b

    def _length(self, a: int, b: int) -> float:
        """Var of the increment over lattice points [a, b]."""
        top = self.cells << self.depth
        ends = [self.clock(self.low + (self.high - self.low) * (k / top)) for k in (a, b)]
        if not -math.inf < ends[0] < ends[1] < math.inf:
            raise ValueError(
                f"Brownian: got clock {ends[0]} then {ends[1]} at lattice points {a} and {b} of {top}, "
                "expected it to increase; pass an increasing, finite clock"
            )
        return ends[1] - ends[0]
