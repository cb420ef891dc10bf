"""Inversion of a plan, instruction by instruction, found before the first network call.

Going backwards, a Combine that overwrote a register is solved for what it overwrote; a prediction that is
gone is evaluated again, which is legal where its source stands there unchanged. Plain DDIM fails at its first
instruction: both the state and the prediction at it are unknown. A control added when a step opens counts as
a write to "x".
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .loop import combine, entry, execute, predict
from .model import Model
from .noise import Noise
from .plan import Apply, Coefficient, Combine, Evaluate, Plan, reads, writes
from .program import Call, Evaluator, Ops, Program, Sum, Value, prepare

MOST = 4  # two coupled states, and the start of a step at either infinite end


@dataclass(frozen=True)
class Undo:
    """How to step back over one instruction: run `again` for values that are gone, then solve for `target`.

    `again` counts instructions back from this one, so that equal steps share one object.
    """

    again: tuple[int, ...]
    target: str | None


@dataclass(frozen=True)
class Inversion:
    """`carried`: registers that must be kept at the end of the run; one Undo for each instruction."""

    carried: tuple[str, ...]
    undos: tuple[Undo, ...]


class _Walk:
    """Which value each register holds, going backwards; a value is named by the instruction that wrote it."""

    def __init__(self, plan: Plan) -> None:
        self.plan, ops, starts = plan, plan.instructions, set(plan.starts)
        held: dict[str, int] = {name: -1 for name in plan.entry}
        self.read: list[tuple[int, ...]] = []  # of each instruction, the values in the order of `reads`
        self.opened: dict[int, int] = {}
        for k, op in enumerate(ops):
            if k in starts and "x" in held:
                self.opened[k], held["x"] = held["x"], -2 - k
            self.read.append(tuple(map(held.__getitem__, reads(op))))
            held.update(dict.fromkeys(writes(op), k))
        # states that stand at the end and can be carried, if they cannot be had again
        self.pool = {name: k for name, k in held.items() if k < 0 or isinstance(ops[k], Combine)}
        self.have = {"x": self.pool.pop("x")}
        self.carried = {"x"}
        self.again: list[int] = []

    def sources(self, k: int) -> list[tuple[str, int]]:
        """(register, value) that instruction k reads."""
        return list(zip(reads(self.plan.instructions[k]), self.read[k], strict=True))

    def claim(self, name: str) -> None:
        self.have[name] = self.pool.pop(name)
        self.carried.add(name)

    def obtain(self, name: str, value: int) -> bool:
        """Whether `name` holds `value`, after running instructions again or carrying it if that is what it takes."""
        if self.have.get(name) == value:
            return True
        if name in self.have:
            return False
        if value >= 0 and name not in reads(self.plan.instructions[value]):
            before = dict(self.have), dict(self.pool), set(self.carried), list(self.again)
            if all(self.obtain(n, v) for n, v in self.sources(value)):
                self.have[name] = value
                self.again.append(value)
                return True
            self.have, self.pool, self.carried, self.again = before
        if self.pool.get(name) == value:
            self.claim(name)
            return True
        return False

    def undo(self, k: int) -> Undo:
        op, target, self.again = self.plan.instructions[k], None, []
        if isinstance(op, Apply):
            raise ValueError(
                f"{self.plan.name}: got an Apply at instruction {k}, expected Combine and Evaluate only to "
                "invert"
            )
        if isinstance(op, Evaluate):
            self._restored(k, [name for name, value in self.sources(k) if not self.obtain(name, value)], 0)
            self.have.pop(op.outs[0], None)
        elif k in (self.have.get(op.out), self.pool.get(op.out)):
            target = self._solve(k, op)
        if self.have.get("x") == -2 - k:
            self.have["x"] = self.opened[k]
        return Undo(tuple(k - index for index in self.again), target)

    def _solve(self, k: int, op: Combine) -> str | None:
        """Find what `op` is solved for; its result is gone after that."""
        missing = [name for name, value in self.sources(k) if not self.obtain(name, value)]
        self._restored(k, missing, 1)
        if missing and op.out not in self.have:
            self.claim(op.out)
        self.have.pop(op.out, None)
        self.pool.pop(op.out, None)
        if not missing:
            return None
        self.have[missing[0]] = dict(self.sources(k))[missing[0]]
        return missing[0]

    def _restored(self, k: int, missing: list[str], most: int) -> None:
        if len(missing) > most:
            raise ValueError(
                f"{self.plan.name}: instruction {k} cannot be undone: got unknown registers {missing}, "
                f"expected at most {most}; use a reversible method (ReversibleHeun, OBELM, BDIA, EDICT, "
                "Coupled, Rex) or Checkpoint()"
            )


def inversion(plan: Plan) -> Inversion:
    """How to run `plan` backwards.

    Raises:
        ValueError: naming the first instruction, from the end, that cannot be undone.
    """
    walk = _Walk(plan)
    same: dict[Undo, Undo] = {}
    undos = []
    for k in range(len(plan.instructions) - 1, -1, -1):
        undo = walk.undo(k)
        undos.append(same.setdefault(undo, undo))
    lost = [name for name in plan.entry if walk.have.get(name) != -1]
    if lost:
        raise ValueError(
            f"{plan.name}: going backwards, got no value for the entry registers {lost}; expected each to be "
            "solved for; use a reversible method"
        )
    if len(walk.carried) > MOST:
        raise ValueError(
            f"{plan.name}: its inverse needs {len(walk.carried)} states carried to the end, expected at most "
            f"{MOST}; use a reversible method, which needs two"
        )
    return Inversion(("x", *sorted(walk.carried - {"x"})), tuple(undos[::-1]))


def inverted(plan: Plan) -> Plan:
    """The plan that undoes `plan`: its entry is what `plan` carries at its end, its times run the other way."""
    how, ops, starts = inversion(plan), [], []
    bounds = {start: None for start in plan.starts}
    for k in range(len(plan.instructions) - 1, -1, -1):
        if k + 1 in bounds or k + 1 == len(plan.instructions):
            starts.append(len(ops))
        ops += [plan.instructions[k - back] for back in how.undos[k].again]
        op, target = plan.instructions[k], how.undos[k].target
        if target is not None:
            assert isinstance(op, Combine)
            ops.append(_solved(op, target))
    return replace(
        plan,
        name=f"inverse of {plan.name}",
        instructions=tuple(ops),
        starts=tuple(starts),
        times=plan.times[::-1],
        entry=how.carried,
        exit=plan.entry,
    )


def _solved(op: Combine, target: str) -> Combine:
    """`op` solved for `target`."""
    whole = next(c for c, name in op.terms if name == target)
    rest = [(_ratio(c, whole, -1.0), name) for c, name in op.terms if name != target]
    noise = tuple((_ratio(c, whole, -1.0), slot) for c, slot in op.noise)
    return Combine(target, ((_ratio(1.0, whole), op.out), *rest), noise)


def _ratio(a: Coefficient, b: Coefficient, sign: float = 1.0) -> Coefficient:
    if isinstance(b, tuple):
        return tuple(
            sign * x / y for x, y in zip(a if isinstance(a, tuple) else [a] * len(b), b, strict=True)
        )
    assert isinstance(a, float)
    return sign * a / b


def overwritten(item: Sum, target: str, registers: dict[str, Tensor], noise: Noise | None) -> Tensor:
    """The register that `item` overwrote: (out - sum of the other terms) / c."""
    whole: Value = next(c for c, name in item.terms if name == target)
    terms: list[tuple[Value, Tensor]] = [(1.0, registers[item.out])]
    terms += [(-c, registers[name]) for c, name in item.terms if name != target]
    for c, slot in item.noise:
        assert noise is not None
        terms.append((-c, noise(slot, registers[item.out])))
    return combine(terms).div_(whole)


def widened(program: Program, carried: tuple[str, ...]) -> Program:
    """`program` for float64 registers, keeping the `carried` ones to the end."""
    assert isinstance(program.ops, Ops)
    return replace(program, ops=program.ops.keeping(carried))


def narrowed(evaluate: Callable[[Call, Tensor], Tensor], dtype: torch.dtype) -> Evaluator:
    """`evaluate` in `dtype` for float64 registers."""
    return lambda call, state: evaluate(call, state.to(dtype)).double()


def encode(
    model: Model, plan: Plan, x: Tensor, cond: Any = None, noise: Noise | None = None
) -> dict[str, Tensor]:
    """Run a reversible plan and return, in float64, every register that its inverse needs.

    `decode(model, plan, encode(model, plan, x))` is x to round-off. The network sees x's dtype. The grid may
    rise (data to noise: inversion of an image) or fall.

    Raises:
        ValueError: a plan that cannot be inverted; the instruction is named.
    """
    carried = inversion(plan).carried
    program = widened(prepare(plan, model, x), carried)
    evaluate = narrowed(lambda call, state: predict(model, call, state, cond), x.dtype)
    registers = execute(program, {"x": x.double()}, evaluate, noise)
    return {name: registers[name] for name in carried}


def decode(
    model: Model,
    plan: Plan,
    registers: dict[str, Tensor],
    cond: Any = None,
    noise: Noise | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Undo `plan` from the registers that `encode` returned; the network sees `dtype`, which is the result's.

    `cond` may be another than `encode`'s: that is editing by exact inversion.
    """
    back = plan.inverse()
    wide = {name: value.double() for name, value in entry(back, registers).items()}
    program = widened(prepare(back, model, wide["x"].to(dtype)), ())
    evaluate = narrowed(lambda call, state: predict(model, call, state, cond), dtype)
    return execute(program, wide, evaluate, noise)["x"].to(dtype)
