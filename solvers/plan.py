"""Plan: a sampler written down as a straight-line program of linear instructions around network calls.

Registers hold tensors; "x" is the state on entry and on exit. Coefficients are float64 numbers known before
the first call; in a stacked plan (one grid per sample) they are tuples with one number per sample.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from .prediction import Prediction
from .process import Process

Coefficient = float | tuple[float, ...]


@dataclass(frozen=True)
class Evaluate:
    """outs <- the model's `want` prediction at register `src` and time `t`."""

    outs: tuple[str, ...]
    src: str
    t: Coefficient
    want: Prediction


@dataclass(frozen=True)
class Combine:
    """out <- sum of c * register over `terms` + sum of k * noise(slot) over `noise`."""

    out: str
    terms: tuple[tuple[Coefficient, str], ...]
    noise: tuple[tuple[Coefficient, int], ...] = ()


@dataclass(frozen=True)
class Apply:
    """outs <- fn(*srcs): the escape for what is not linear; differentiated by autograd."""

    outs: tuple[str, ...]
    srcs: tuple[str, ...]
    fn: Callable[..., Any]


Instruction = Evaluate | Combine | Apply


def reads(op: Instruction) -> tuple[str, ...]:
    """The registers an instruction reads."""
    if isinstance(op, Evaluate):
        return (op.src,)
    # from a list: CPython keeps up to 2000 of the tuples that a generator filled, one more for each call
    return tuple([name for _, name in op.terms]) if isinstance(op, Combine) else op.srcs


def writes(op: Instruction) -> tuple[str, ...]:
    """The registers an instruction writes."""
    return (op.out,) if isinstance(op, Combine) else op.outs


@dataclass(frozen=True)
class Plan:
    """An immutable sampler: printable, comparable, picklable.

    Args:
        name: the method, as it prints itself.
        process: whose times the plan speaks.
        times: N + 1 grid times (tuples of B for a stacked plan).
        instructions: the program.
        starts: for each of the N steps the index of its first instruction.
        order: nominal order of convergence.
        stochastic: whether it draws noise.
        entry, exit: registers that hold tensors before and after; more than "x" in the inverse of a plan.
    """

    name: str
    process: Process
    times: tuple[Coefficient, ...]
    instructions: tuple[Instruction, ...]
    starts: tuple[int, ...]
    order: int
    stochastic: bool
    entry: tuple[str, ...] = ("x",)
    exit: tuple[str, ...] = ("x",)

    @property
    def steps(self) -> int:
        """Number of steps N."""
        return len(self.starts)

    @property
    def nfe(self) -> int:
        """Network evaluations of one run."""
        return sum(isinstance(op, Evaluate) for op in self.instructions)

    @property
    def slots(self) -> int:
        """Noise slots drawn: 0 .. slots - 1."""
        return 1 + max(
            (s for op in self.instructions if isinstance(op, Combine) for _, s in op.noise), default=-1
        )

    @property
    def batch(self) -> int | None:
        """Number of samples of a stacked plan, None where one table serves any batch."""
        return len(self.times[0]) if isinstance(self.times[0], tuple) else None

    @property
    def held(self) -> int:
        """Most registers alive at one time."""
        alive, most = set(self.entry), len(self.entry)
        for op, dead in zip(self.instructions, last_uses(self.instructions, self.exit), strict=True):
            alive |= set(writes(op))
            most = max(most, len(alive))
            alive -= set(dead)
        return most

    def split(self, step: int) -> tuple["Plan", "Plan"]:
        """The first `step` steps and the rest; the rest reads the registers that the first part leaves."""
        cut = self.starts[step] if step < self.steps else len(self.instructions)
        head = replace(
            self,
            instructions=self.instructions[:cut],
            starts=self.starts[:step],
            times=self.times[: step + 1],
        )
        tail = replace(
            self,
            instructions=self.instructions[cut:],
            starts=tuple(s - cut for s in self.starts[step:]),
            times=self.times[step:],
        )
        return head, tail

    def inverse(self) -> "Plan":
        """The plan that undoes this one exactly (to round-off): from what `encode` returns back to "x".

        Step k of the inverse is step N - 1 - k here, so PerStep conditioning is flipped. Cost: the same
        network calls.

        Raises:
            ValueError: a plan that cannot be inverted, as DDIM's; the instruction is named.
        """
        from .inverse import inverted  # which needs Plan

        return inverted(self)

    def __str__(self) -> str:
        lines = [
            f"{self.name}: {self.steps} steps, {self.nfe} network calls, order {self.order}, {self.slots} "
            f"noise slots, {self.held} registers held"
        ]
        bounds = dict(zip(self.starts, range(self.steps), strict=True))
        for k, op in enumerate(self.instructions):
            lines.append(f"{bounds.get(k, ''):>4}  {_line(op)}")
        return "\n".join(lines)


def _number(c: Coefficient) -> str:
    return f"({c[0]:+.4g}, ... {len(c)})" if isinstance(c, tuple) else f"{c:+.6g}"


def _line(op: Instruction) -> str:
    if isinstance(op, Evaluate):
        return f"{', '.join(op.outs)} <- {op.want.name}({op.src}, t={_number(op.t).lstrip('+')})"
    if isinstance(op, Apply):
        return f"{', '.join(op.outs)} <- {getattr(op.fn, '__name__', op.fn)}({', '.join(op.srcs)})"
    parts = [f"{_number(c)} {name}" for c, name in op.terms] + [
        f"{_number(c)} noise[{slot}]" for c, slot in op.noise
    ]
    return f"{op.out} <- {' '.join(parts)}"


def last_uses(instructions: tuple[Instruction, ...], exit: Iterable[str] = ("x",)) -> list[tuple[str, ...]]:
    """For each instruction the registers nobody reads after it; those of `exit` are read by the caller."""
    return list(uses_backwards(instructions, exit))[::-1]


def uses_backwards(instructions: tuple[Instruction, ...], exit: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """`last_uses` from the last instruction to the first, one at a time."""
    seen = set(exit)
    for op in reversed(instructions):
        touched = {*reads(op), *writes(op)}
        yield tuple(sorted(touched - seen))
        seen.difference_update(writes(op))
        seen.update(reads(op))


def stack(plans: list[Plan]) -> Plan:
    """One plan for B samples with a grid each: equal programs, coefficients side by side.

    Raises:
        ValueError: where the programs differ in structure (an infinite end for some samples only).
    """
    first = plans[0]

    def shape(plan: Plan) -> list[Any]:
        return [
            (type(op), reads(op), writes(op), len(op.noise) if isinstance(op, Combine) else 0)
            for op in plan.instructions
        ]

    for i, plan in enumerate(plans):
        if shape(plan) != shape(first):
            raise ValueError(
                f"per-sample grid: sample {i} compiles to another program than sample 0; expected grids of "
                "one kind (the same ends at alpha=0 or sigma=0, similar step ratios); sample them apart"
            )
    ops: list[Instruction] = []
    for same in zip(*(p.instructions for p in plans), strict=True):
        op = same[0]
        if isinstance(op, Evaluate):
            op = replace(op, t=tuple(o.t for o in same))
        elif isinstance(op, Combine):
            op = replace(
                op,
                terms=tuple(
                    (tuple(o.terms[j][0] for o in same), name) for j, (_, name) in enumerate(op.terms)
                ),
                noise=tuple(
                    (tuple(o.noise[j][0] for o in same), slot) for j, (_, slot) in enumerate(op.noise)
                ),
            )
        ops.append(op)
    times = tuple(tuple(p.times[i] for p in plans) for i in range(len(first.times)))
    return replace(first, times=times, instructions=tuple(ops))
