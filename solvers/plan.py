"""Plan: a sampler written down as a straight-line program of linear instructions around network calls.

Registers hold tensors; "x" is the state on entry and on exit. Coefficients are float64 numbers known before
the first call; in a stacked plan (one grid per sample) they are tuples with one number per sample.
"""

from array import array
from collections.abc import Callable, MutableSequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Any, ClassVar

from .instructions import Apply, Coefficient, Combine, Evaluate, Instruction, Time, called_as, reads, writes
from .inverse import inverted, undoing
from .linear_map import LinearMap
from .liveness import lifetimes
from .notebook import one_line, table
from .prediction import Prediction
from .process import Process, as_time


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
        entry, exit: registers that hold tensors before and after; more than "x" in the inverse of a plan, and
            on either side of a cut through a method with history.
        run_slots: noise slots of the run that a part of a split plan belongs to; None for a whole plan.
        staggered: whether "x" between the steps is a state beside the node's: a leap-frog's other one, half a step on.
    """

    WANTED: ClassVar[str] = "a Plan; compile one: DPMSolverPP(2).plan(denoiser.process, grid)"
    name: str
    process: Process
    times: tuple[Time, ...]
    instructions: tuple[Instruction, ...]
    starts: tuple[int, ...]
    order: int
    stochastic: bool
    entry: tuple[str, ...] = ("x",)
    exit: tuple[str, ...] = ("x",)
    run_slots: int | None = None
    staggered: bool = False

    @property
    def steps(self) -> int:
        """Number of steps N."""
        return len(self.starts)

    @cached_property
    def calls(self) -> tuple[Evaluate, ...]:
        """The network calls of one run."""
        return tuple([op for op in self.instructions if isinstance(op, Evaluate)])

    @cached_property
    def wants(self) -> tuple[Prediction, ...]:
        """What the calls ask for, each once."""
        return tuple(dict.fromkeys(op.want for op in self.calls))

    @property
    def nfe(self) -> int:
        """Network evaluations of one run."""
        return len(self.calls)

    @cached_property
    def slots(self) -> int:
        """Noise slots drawn: 0 .. slots - 1."""
        return 1 + max(
            (s for op in self.instructions if isinstance(op, Combine) for _, s in op.noise), default=-1
        )

    @property
    def batch(self) -> int | None:
        """Number of samples of a stacked plan, None where one table serves any batch."""
        return len(self.times[0]) if isinstance(self.times[0], tuple) else None

    @cached_property
    def maps(self) -> tuple[LinearMap, ...]:
        """The coefficients that are more than a number."""
        found: list[LinearMap] = []
        for op in self.instructions:
            for c, _ in (*op.terms, *op.noise) if isinstance(op, Combine) else ():
                found += [each for each in _each(c) if isinstance(each, LinearMap)]
        return tuple(found)

    @cached_property
    def functions(self) -> tuple[Callable[[Any], Any], ...]:
        """What is applied to predictions, once for each network call that has such a function."""
        return tuple([op.then for op in self.calls if op.then is not None])

    @property
    def held(self) -> int:
        """Most registers alive at one time."""
        alive, most = set(self.entry), len(self.entry)
        for op, dead in zip(self.instructions, self.last_uses, strict=True):
            alive |= set(writes(op))
            most = max(most, len(alive))
            alive -= set(dead)
        return most

    @cached_property
    def last_uses(self) -> tuple[tuple[str, ...], ...]:
        """For each instruction the registers that nobody reads after it. Kept: a plan is run many times."""
        shared: dict[tuple[str, ...], tuple[str, ...]] = {}
        return tuple(
            [shared.setdefault(d, d) for d in lifetimes(self.instructions, self.starts, self.exit)[1]]
        )

    @cached_property
    def calls_before(self) -> MutableSequence[int]:
        """For each instruction the number of network calls before it; 8 bytes each."""
        return array("l", accumulate((isinstance(op, Evaluate) for op in self.instructions), initial=0))

    def step(self, i: int) -> tuple[Instruction, ...]:
        """The instructions of step i."""
        return self.instructions[self.span(i, i + 1)]

    def span(self, low: int, high: int) -> slice:
        """Where the instructions of steps low .. high - 1 lie, 0 <= low <= high <= N."""
        ends = (*self.starts[low : high + 1], len(self.instructions))
        return slice(ends[0], ends[high - low])

    def split(self, step: int) -> tuple["Plan", "Plan"]:
        """The first `step` steps and the rest.

        The rest starts from the registers that the first part leaves, its `exit`: "x", and what a multistep
        method remembers. Noise slots keep their numbers: both parts take the whole run's noise.

            head, tail = plan.split(k)
            run(model, tail, advance(model, head, x))     # equals run(model, plan, x)

        Raises:
            ValueError: a step that the plan does not have.
        """
        if not 0 <= step <= self.steps:
            raise ValueError(f"split: got step {step}, expected 0 to {self.steps}")
        cut = self.span(0, step).stop
        rest, starts = self.instructions[cut:], tuple([s - cut for s in self.starts[step:]])
        needed, _ = lifetimes(rest, starts, self.exit)
        between = ("x", *sorted(needed - {"x"}))
        slots = self.slots if self.run_slots is None else self.run_slots
        head = replace(
            self,
            instructions=self.instructions[:cut],
            starts=self.starts[:step],
            times=self.times[: step + 1],
            exit=between,
            run_slots=slots,
        )
        tail = replace(
            self, instructions=rest, starts=starts, times=self.times[step:], entry=between, run_slots=slots
        )
        return head, tail

    def inverse(self) -> "Plan":
        """The plan that undoes this one exactly (to round-off): from what `encode` returns back to "x".

        Step k of the inverse is step N - 1 - k here, so PerStep conditioning is flipped. Cost: the same
        network calls.

        Raises:
            ValueError: a plan that cannot be inverted, as DDIM's; the instruction is named.
        """
        how = undoing(self.instructions, self.starts, self.entry, self.name)
        instructions, starts = inverted(self.instructions, self.starts, how)
        return replace(
            self,
            name=f"inverse of {self.name}",
            instructions=instructions,
            starts=starts,
            times=self.times[::-1],
            entry=how.carried,
            exit=self.entry,
        )

    @property
    def rises(self) -> bool:
        """Whether it leads from data to noise, as inversions do."""
        start, end = (self.process.lam(as_time(self.times[i])) for i in (0, -1))
        return bool((start > end).any())

    def check_falls(self, asker: str) -> None:
        """Raise ValueError in the name of `asker` where the plan does not lead from noise to data."""
        if self.rises:
            raise ValueError(
                f"{asker}: got {self.name} on a grid that rises from data to noise, expected a falling one, from noise "
                "to data; leave Rising out"
            )

    def check_affine(self, asker: str) -> None:
        """Raise ValueError in the name of `asker` where more than numbers come between network and state."""
        self.check_linear(asker)
        self.check_numbers(asker)
        if self.functions:
            raise ValueError(
                f"{asker}: got {self.name} with the function {called_as(self.functions[0])} on its predictions, about "
                "which nothing is known, expected none; take a plan without it"
            )

    def check_numbers(self, asker: str) -> None:
        """Raise ValueError in the name of `asker` where a coefficient is a map of the state, not a number."""
        if self.maps:
            raise ValueError(
                f"{asker}: got {self.name} with the coefficient {self.maps[0]}, expected numbers; take a plan without "
                "such coefficients"
            )

    def check_linear(self, asker: str) -> None:
        """Raise ValueError in the name of `asker` where the plan holds an Apply, about which nothing is known."""
        for k, op in enumerate(self.instructions):
            if isinstance(op, Apply):
                raise ValueError(
                    f"{asker}: got {self.name} with the Apply {op} at instruction {k}, expected Evaluate and "
                    "Combine only; take a plan without it"
                )

    def __repr__(self) -> str:
        return one_line(
            f"<Plan: {self.steps} steps, {self.nfe} network calls, order {self.order}, of {self.name}>"
        )

    def __str__(self) -> str:
        return "\n".join([self._head(), *(f"{step:>4}  {op}" for step, op in self._rows())])

    def _repr_html_(self) -> str:
        return table(("step", "instruction"), self._rows(), self._head())

    def _head(self) -> str:
        ends = "" if self.entry == ("x",) else f", starts from {', '.join(self.entry)}"
        ends += "" if self.exit == ("x",) else f", leaves {', '.join(self.exit)}"
        return (
            f"{self.name}: {self.steps} steps, {self.nfe} network calls, order {self.order}, {self.slots} "
            f"noise slots, {self.held} registers held{ends}"
        )

    def _rows(self) -> list[tuple[str, str]]:
        """(number of the step that it opens, instruction)."""
        opening = {start: str(step) for step, start in enumerate(self.starts)}
        return [(opening.get(k, ""), str(op)) for k, op in enumerate(self.instructions)]


def stack(plans: list[Plan]) -> Plan:
    """One plan for B samples with a grid each: equal programs, coefficients side by side.

    Raises:
        ValueError: where the programs differ in structure (an infinite end for some samples only), or in the functions
            that they apply.
    """
    first = plans[0]

    def shape(plan: Plan) -> list[Any]:
        return [(type(op), reads(op), writes(op), _kinds(op)) for op in plan.instructions]

    for i, plan in enumerate(plans):
        if shape(plan) != shape(first):
            raise ValueError(
                f"per-sample grid: sample {i} compiles to another program than sample 0; expected grids of "
                "one kind (the same ends at alpha=0 or sigma=0, similar step ratios); sample them apart"
            )
    instructions = tuple(_beside(same) for same in zip(*(p.instructions for p in plans), strict=True))
    times = tuple(tuple(p.times[i] for p in plans) for i in range(len(first.times)))
    return replace(first, times=times, instructions=instructions)


def _each(c: Coefficient) -> tuple[float | LinearMap, ...]:
    """c of every sample."""
    return c if isinstance(c, tuple) else (c,)


def _kinds(op: Instruction) -> Any:
    """What must be one in all samples: of a Combine which kinds of coefficients, of the others their function, whose
    numbers are not set side by side.
    """
    if isinstance(op, Combine):
        return [type(c) for c, _ in op.terms], [type(c) for c, _ in op.noise]
    return op.then if isinstance(op, Evaluate) else op.fn


def _beside(same: tuple[Any, ...]) -> Instruction:
    """One instruction of all samples, its numbers as tuples with one for each."""
    op: Instruction = same[0]
    if isinstance(op, Evaluate):
        return replace(op, t=tuple(o.t for o in same))
    if isinstance(op, Combine):
        return replace(
            op,
            terms=tuple((tuple(o.terms[j][0] for o in same), name) for j, (_, name) in enumerate(op.terms)),
            noise=tuple((tuple(o.noise[j][0] for o in same), slot) for j, (_, slot) in enumerate(op.noise)),
        )
    return op
