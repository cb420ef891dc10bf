"""Student: the plan that is learned, as a function of free numbers, and its runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ...solvers import Guided, Model, Plan
from ...solvers.instructions import reads, writes
from ...solvers.loop import execute, predict
from ...solvers.program import prepare
from .part import Draft, LearnedPart


@dataclass(frozen=True, eq=False)
class Student:
    """`draft(theta)` of all parts together, theta their numbers one after another."""

    model: Model
    plan: Plan
    parts: Sequence[LearnedPart]

    @cached_property
    def sizes(self) -> list[int]:
        """How many numbers each part has."""
        draft, found = Draft(self.plan), []
        for part in self.parts:
            found.append(part.size(draft, self.model))
            draft = part.applied(draft, torch.zeros(found[-1], dtype=torch.float64), self.model)
        return found

    def theta(self, known: Mapping[LearnedPart, Tensor]) -> Tensor:
        """Those of the parts that are known, nought for the others."""
        rows = zip(self.parts, self.sizes, strict=True)
        return torch.cat([known.get(part, torch.zeros(n, dtype=torch.float64)) for part, n in rows])

    def draft(self, theta: Tensor) -> Draft:
        """Raises ValueError where no such plan can be compiled."""
        draft = Draft(self.plan)
        for part, numbers in zip(self.parts, theta.split(self.sizes), strict=True):
            draft = part.applied(draft, numbers, self.model)
        return draft


@dataclass(frozen=True, eq=False)
class Draws:
    """Noise at the start (B, ...), its conditioning, and what the teacher makes of it."""

    x: Tensor
    cond: Any
    target: Tensor


@dataclass(frozen=True, eq=False)
class Run:
    """One run of a draft, whose registers are kept as every step opens, so that a like draft runs from where it
    differs.
    """

    draft: Draft
    sample: Tensor
    opened: list[dict[str, Tensor]]
    calls: int

    @classmethod
    def of(cls, model: Model, batch: Draws, draft: Draft, like: "Run | None" = None) -> "Run":
        """The run of `draft`; its first steps are those of `like` as far as the two agree."""
        plan, first = draft.plan, 0 if like is None else _first_difference(draft, like.draft)
        opened: list[dict[str, Tensor]] = [] if like is None else like.opened[:first]
        if like is not None and first == plan.steps:
            return cls(draft, like.sample, opened, 0)
        start = {"x": batch.x} if like is None else dict(like.opened[first])
        program = prepare(plan, model, batch.x).steps(first, plan.steps)

        def cond(step: int) -> Any:
            return batch.cond if draft.scale is None else Guided(batch.cond, draft.scale[step].to(batch.x))

        with torch.no_grad():
            done = execute(
                program,
                start,
                lambda call, state: predict(model, call, state, cond(call.step)),
                None,
                lambda step, registers: opened.append(dict(registers)),
            )
        calls = sum(1 for _ in program.calls())
        return cls(draft, done["x"], opened, calls)


def same_form(a: Plan, b: Plan) -> bool:
    """Whether two plans differ in numbers alone."""
    return [(reads(op), writes(op)) for op in a.instructions] == [
        (reads(op), writes(op)) for op in b.instructions
    ]


def _first_difference(a: Draft, b: Draft) -> int:
    """The first step in which two drafts of one form differ."""
    for k in range(a.plan.steps):
        if a.plan.step(k) != b.plan.step(k):
            return k
        if a.scale is not None and b.scale is not None and a.scale[k] != b.scale[k]:
            return k
    return a.plan.steps
