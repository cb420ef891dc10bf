"""Program: a plan bound to one model, batch, dtype and device; its instructions are made ready one at a time."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, MutableSequence, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, overload

import numpy as np
import torch
from torch import Tensor

from .instructions import Apply, Coefficient, Combine, Evaluate
from .linear_map import LinearMap, Value
from .model import Model
from .plan import Plan
from .prediction import conversion
from .process import as_numbers, as_time

Evaluator = Callable[["Call", Tensor], Tensor]


class Call(NamedTuple):
    """One network call of a plan: its index, step, times (B,) and the conversion out = a x + b network(x).

    `op` is what it was bound from, which may have a function of out or ask for the variance too. Like the bound
    instructions a named tuple: one is made for every call, in a third of a dataclass's time.
    """

    # hides tuple.index, which nobody asks of a call
    index: int  # pyright: ignore[reportIncompatibleMethodOverride]
    step: int
    t: Tensor
    a: Value
    b: Value
    op: Evaluate | None = None


class BoundEvaluate(NamedTuple):
    """An Evaluate with its network call. Of all bound instructions: `dead` are the registers that nobody reads
    after it.
    """

    op: Evaluate
    call: Call
    dead: tuple[str, ...]
    step: int


class BoundCombine(NamedTuple):
    """A Combine with coefficients ready for use."""

    out: str
    terms: tuple[tuple[Value, str], ...]
    noise: tuple[tuple[Value, int], ...]
    dead: tuple[str, ...]
    step: int


class BoundApply(NamedTuple):
    """An Apply, which needs nothing of the model."""

    op: Apply
    dead: tuple[str, ...]
    step: int


Bound = BoundEvaluate | BoundCombine | BoundApply


@dataclass(frozen=True)
class Program:
    """A plan made ready. `learned`: whether its numbers receive a gradient."""

    plan: Plan
    ops: Sequence[Bound]
    learned: bool = False

    def steps(self, low: int, high: int) -> "Program":
        """Steps low .. high - 1 of the plan."""
        return replace(self, ops=self.ops[self.plan.span(low, high)])

    def calls(self) -> Iterator[Call]:
        """The network calls, in order."""
        return (item.call for item in self.ops if isinstance(item, BoundEvaluate))

    def whole(self) -> "Program":
        """The whole plan's program, of one that `steps` cut out of it."""
        assert isinstance(self.ops, _OnDemand)
        return replace(self, ops=_OnDemand(self.ops.numbers, 0, len(self.plan.instructions)))

    def widened(self, kept: Sequence[str]) -> "Program":
        """The same for float64 registers, of which those `kept` are there at the end."""
        assert isinstance(self.ops, _OnDemand)
        numbers = replace(self.ops.numbers, kept=frozenset(kept), dtype=torch.float64)
        return replace(self, ops=_OnDemand(numbers, self.ops.low, self.ops.high))


def prepare(plan: Plan, model: Model, like: Tensor) -> Program:
    """Check model and batch against the plan and bind its numbers, before any network call.

    Raises:
        ValueError: another process than the model's, a batch that a stacked plan does not fit, a prediction
            that does not determine what the plan asks for.
    """
    if model.process != plan.process:
        raise ValueError(
            f"process: got a plan for {plan.process}, expected the denoiser's {model.process}; compile the "
            "plan with denoiser.process"
        )
    if plan.batch is not None and plan.batch != len(like):
        raise ValueError(
            f"per-sample plan: got a batch of {len(like)}, expected {plan.batch}, one column of the grid each"
        )
    calls = plan.calls
    if not model.learns_variance and any(op.variance for op in calls):
        raise ValueError(
            f"{plan.name}: got a model that predicts no variance, expected a LearnedVariance, or ClassifierFree "
            "of one; wrap the network in it, or take PosteriorVariance.SMALL"
        )
    times = torch.tensor([op.t for op in calls], dtype=torch.float64)
    model.check_times(times)
    # of a 16-bit state too: 979 is no number of bfloat16
    told = times.to(like.device, torch.promote_types(like.dtype, torch.float32))
    labels = told.reshape(len(calls), plan.batch or 1).expand(-1, len(like))
    maps = _maps(plan, model, times)
    numbers = _Numbers(plan, labels, maps, plan.last_uses, plan.calls_before, like.shape, like.dtype)
    if plan.maps:
        _ = numbers.rows  # which refuses maps for states of another shape
    return Program(plan, _OnDemand(numbers, 0, len(plan.instructions)))


def _maps(plan: Plan, model: Model, times: Tensor) -> np.ndarray:
    """(a, b) of every call, (K, 2) or (K, 2, B), computed in one float64 sweep per kind of prediction asked for."""
    result = np.zeros((len(times), 2, *times.shape[1:]))
    for want in plan.wants:
        alone = len(plan.wants) == 1  # all calls are quick to take
        index = slice(None) if alone else [k for k, op in enumerate(plan.calls) if op.want == want]
        a, b = conversion(model.prediction, want, plan.process, as_time(times[index]))
        result[index, 0], result[index, 1] = as_numbers(a), as_numbers(b)
    return result


@dataclass(frozen=True, eq=False)
class _Numbers:
    """What bound instructions are made of: 100 bytes a step of DPMSolverPP(2), beside 815 of its plan.

    Instructions are bound each time they are asked for: held, they would take 860 bytes a step more, and memory
    that is flat in N would not be. `dead` as bits instead of names was 48 bytes less, and slower to read.

    Attributes:
        times, maps: of every call, t (K, B) and a, b (K, 2) or (K, 2, B).
        dead: of every instruction.
        calls: for every instruction the number of calls before it.
        shape, dtype: of the state.
        kept: registers that never die.
    """

    plan: Plan
    times: Tensor
    maps: np.ndarray
    dead: tuple[tuple[str, ...], ...]
    calls: MutableSequence[int]
    shape: torch.Size
    dtype: torch.dtype
    kept: frozenset[str] = frozenset()

    def bound(self, k: int, step: int) -> Bound:
        """Instruction k of the plan, of this step, made ready."""
        op, dead = self.plan.instructions[k], self.dead[k]
        if self.kept and dead:
            dead = tuple([name for name in dead if name not in self.kept])
        if isinstance(op, Evaluate):
            index = self.calls[k]
            a, b = self.maps[index].tolist()
            if self.stacked:
                a, b = self.value(tuple(a)), self.value(tuple(b))
            return BoundEvaluate(op, Call(index, step, self.times[index], a, b, op), dead, step)
        if isinstance(op, Combine):
            if self.plain:
                return BoundCombine(op.out, op.terms, op.noise, dead, step)  # type: ignore[arg-type]
            terms = tuple([(self.value(c), name) for c, name in op.terms])
            return BoundCombine(op.out, terms, tuple([(self.value(c), s) for c, s in op.noise]), dead, step)
        return BoundApply(op, dead, step)

    def value(self, c: Coefficient) -> Value:
        """A coefficient ready for use."""
        return self.rows[c] if isinstance(c, tuple | LinearMap) else c

    @cached_property
    def plain(self) -> bool:
        """Whether all coefficients are numbers, ready as they stand."""
        return not self.stacked and not self.plan.maps

    @cached_property
    def stacked(self) -> bool:
        """Whether every sample has numbers of its own."""
        return self.plan.batch is not None

    @cached_property
    def rows(self) -> dict[Coefficient, Value]:
        """All coefficients but plain numbers: a stacked plan's (B, 1, ...), and maps. The former go to the device in
        one piece: while a piece goes, the host waits.
        """
        combines = (op for op in self.plan.instructions if isinstance(op, Combine))
        # each once, in the order of the plan: what is refused is the same in every process
        found = dict.fromkeys(c for op in combines for c, _ in op.terms + op.noise)
        if self.stacked:
            found |= dict.fromkeys(tuple(c) for maps in self.maps.tolist() for c in maps)
        mapped = [c for c in found if isinstance(c[0] if isinstance(c, tuple) else c, LinearMap)]
        wide = [c for c in found if isinstance(c, tuple) and isinstance(c[0], float)]
        to = {"dtype": self.dtype, "device": self.times.device}
        table = torch.tensor(wide, **to)
        table = table.reshape(*table.shape, *(1,) * (len(self.shape) - 1))
        ready: dict[Coefficient, Value] = dict(zip(wide, table.unbind(), strict=True))
        for c in mapped:
            maps = c if isinstance(c, tuple) else (c,)
            ready[c] = type(maps[0]).bound(maps, self.shape, **to)  # type: ignore[union-attr]
        return ready


class _OnDemand(Sequence[Bound]):
    """Instructions low .. high - 1 of a plan, each bound when it is asked for."""

    def __init__(self, numbers: _Numbers, low: int, high: int) -> None:
        self.numbers, self.low, self.high = numbers, low, high

    def __len__(self) -> int:
        return self.high - self.low

    @overload
    def __getitem__(self, k: int) -> Bound: ...
    @overload
    def __getitem__(self, k: slice) -> "_OnDemand": ...
    def __getitem__(self, k: int | slice) -> "Bound | _OnDemand":
        if isinstance(k, slice):
            low, high, stride = k.indices(len(self))
            assert stride == 1
            return _OnDemand(self.numbers, self.low + low, self.low + high)
        if not -len(self) <= k < len(self):
            raise IndexError(k)
        place = self.low + k % len(self)
        return self.numbers.bound(place, bisect_right(self.numbers.plan.starts, place) - 1)

    def __iter__(self) -> Iterator[Bound]:
        starts, bound, low = self.numbers.plan.starts, self.numbers.bound, self.low
        step = bisect_right(starts, low) - 1
        while low < self.high:
            high = min(starts[step + 1], self.high) if step + 1 < len(starts) else self.high
            for k in range(low, high):
                yield bound(k, step)
            low, step = high, step + 1
