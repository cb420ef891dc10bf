"""Program: a plan bound to one model, batch, dtype and device; its instructions are made ready one at a time."""

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from .model import Model
from .plan import Coefficient, Combine, Evaluate, Plan, reads, uses_backwards, writes
from .prediction import conversion
from .process import as_time

Value = float | Tensor  # a coefficient ready for use: a number, or one per sample shaped to broadcast
Evaluator = Callable[["Call", Tensor], Tensor]
Op = tuple[Any, tuple[str, ...], int]  # a Sum, an Apply or (Evaluate, Call); registers dead after it; step


@dataclass(frozen=True)
class Call:
    """One network call of a plan: its index, step, times (B,) and the conversion out = a x + b network(x)."""

    index: int
    step: int
    t: Tensor
    a: Value
    b: Value


@dataclass(frozen=True)
class Sum:
    """A Combine with coefficients ready for use."""

    out: str
    terms: tuple[tuple[Value, str], ...]
    noise: tuple[tuple[Value, int], ...]


@dataclass(frozen=True)
class Program:
    """A plan made ready. `learned`: whether its numbers receive a gradient."""

    plan: Plan
    ops: Sequence[Op]
    learned: bool = False

    def steps(self, low: int, high: int) -> "Program":
        """Steps low .. high - 1 of the plan."""
        starts = (*self.plan.starts, len(self.plan.instructions))
        return replace(self, ops=self.ops[starts[low] : starts[high]])


class Ops(Sequence[Op]):
    """Instructions made ready when asked for: what is held for each step is a few numbers."""

    def __init__(self, bound: "_Bound", low: int, high: int) -> None:
        self.bound, self.low, self.high = bound, low, high

    def __len__(self) -> int:
        return self.high - self.low

    @overload
    def __getitem__(self, k: int) -> Op: ...
    @overload
    def __getitem__(self, k: slice) -> "Ops": ...
    def __getitem__(self, k: int | slice) -> "Op | Ops":
        if isinstance(k, slice):
            low, high, stride = k.indices(len(self))
            assert stride == 1
            return Ops(self.bound, self.low + low, self.low + high)
        if not -len(self) <= k < len(self):
            raise IndexError(k)
        return self.bound.op(self.low + k % len(self))

    def __iter__(self) -> Iterator[Op]:
        return map(self.bound.op, range(self.low, self.high))

    def whole(self) -> "Ops":
        """The whole plan's."""
        return Ops(self.bound, 0, len(self.bound.plan.instructions))

    def keeping(self, names: tuple[str, ...]) -> "Ops":
        """The same with the registers `names` kept to the end, for float64 registers."""
        return Ops(replace(self.bound, kept=frozenset(names), dtype=torch.float64), self.low, self.high)


@dataclass(frozen=True, eq=False)
class _Bound:
    """The numbers behind `Ops`."""

    plan: Plan
    times: Tensor
    maps: np.ndarray
    dead: "array[int]"
    index: "array[int]"
    ndim: int
    dtype: torch.dtype
    kept: frozenset[str] = frozenset()

    def op(self, k: int) -> Op:
        op, bits = self.plan.instructions[k], self.dead[k]
        dead = _chosen((*writes(op), *reads(op)), bits, self.kept) if bits else ()
        step = bisect_right(self.plan.starts, k) - 1
        if isinstance(op, Evaluate):
            index = self.index[k]
            a, b = (
                self.maps[index].tolist()
                if self.plan.batch is None
                else map(self.ready, map(tuple, self.maps[index]))
            )
            item: Any = (op, Call(index, step, self.times[index], a, b))
        elif isinstance(op, Combine):
            if self.plan.batch is None:
                item = Sum(op.out, op.terms, op.noise)  # type: ignore[arg-type]
            else:
                item = Sum(
                    op.out,
                    tuple((self.ready(c), r) for c, r in op.terms),
                    tuple((self.ready(c), s) for c, s in op.noise),
                )
        else:
            item = op
        return item, dead, step

    def ready(self, c: Coefficient) -> Value:
        if isinstance(c, float):
            return c
        return torch.tensor(c, dtype=self.dtype, device=self.times.device).reshape(
            -1, *(1,) * (self.ndim - 1)
        )


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
    calls = [op for op in plan.instructions if isinstance(op, Evaluate)]
    times = torch.tensor([op.t for op in calls], dtype=torch.float64)
    labels = times.to(like).reshape(len(calls), -1).expand(-1, len(like))
    count, index = 0, array("l")
    for op in plan.instructions:
        index.append(count)
        count += isinstance(op, Evaluate)
    bound = _Bound(plan, labels, _maps(plan, model, calls, times), _dead(plan), index, like.ndim, like.dtype)
    return Program(plan, Ops(bound, 0, len(plan.instructions)))


def _chosen(names: tuple[str, ...], bits: int, kept: frozenset[str]) -> tuple[str, ...]:
    return tuple([name for j, name in enumerate(names) if bits >> j & 1 and name not in kept])


def _dead(plan: Plan) -> "array[int]":
    """For each instruction which of the registers it writes and reads are dead after it, a bit each: names
    would take ten times the memory.
    """
    bits = array("Q")
    for op, gone in zip(
        reversed(plan.instructions), uses_backwards(plan.instructions, plan.exit), strict=True
    ):
        names = (*writes(op), *reads(op))
        bits.append(sum(1 << names.index(name) for name in gone))
    return bits[::-1]


def _maps(plan: Plan, model: Model, calls: Sequence[Evaluate], times: Tensor) -> np.ndarray:
    """(a, b) of every call, (K, 2) or (K, 2, B), computed in one float64 sweep per kind of prediction asked for."""
    result = np.zeros((len(calls), 2, *times.shape[1:]))
    for want in {op.want for op in calls}:
        index = [k for k, op in enumerate(calls) if op.want == want]
        a, b = conversion(model.prediction, want, plan.process, as_time(times[index]))
        result[index, 0], result[index, 1] = a.tolist(), b.tolist()  # numpy() fails inside torch.func
    return result
