"""Stretches: a run that adds noise between its steps, as churn and restarts do, taken apart into what each is.

In y = x/alpha added noise is y <- y + k xi: at fixed xi the adjoint of y does not change, that of x changes in scale
alone. What is left between the jumps is the flow, from the level they rose to down to the level they start from.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ...solvers import DATA, Combine, Evaluate, Plan
from ...solvers.prediction import conversion
from .adjoint_grid import AdjointGrid


class Jump(NamedTuple):
    """x <- ratio x + sum c xi(slot)."""

    ratio: float = 1.0
    noise: tuple[tuple[float, int], ...] = ()


@dataclass(frozen=True)
class FlowStretch:
    """The flow from time `top` down to `bottom` within a step of the plan, after a jump up to `top`.

    Attributes:
        call: index of the network call at `top`.
        opens: whether the step opens with it.
    """

    step: int
    jump: Jump
    top: float
    bottom: float
    call: int
    opens: bool


@dataclass(frozen=True, eq=False)
class StretchGrid(AdjointGrid):
    """The run's grid, with one interval of the adjoint for each stretch."""

    stretches: tuple[FlowStretch, ...]

    def shares(self, interval: int) -> list[tuple[int, float]]:
        return [(self.stretches[interval].step, 1.0)]


def is_jump(op: object) -> bool:
    """Whether noise is added to the state and nothing else happens to it but a change of scale."""
    return isinstance(op, Combine) and op.out == "x" and bool(op.noise) and [r for _, r in op.terms] == ["x"]


def stretches(plan: Plan, begin: int) -> tuple[tuple[FlowStretch, ...], Jump]:
    """The stretches of steps `begin` on, and the jump after the last.

    Raises:
        ValueError: noise that is drawn elsewhere than in jumps.
    """
    found: list[FlowStretch] = []
    jump = Jump()
    for step in range(begin, plan.steps):
        walk = _Walk(plan, step, jump)
        found += walk.stretches()
        jump = walk.jump
    return tuple(found), jump


class _Walk:
    """One step, walked along with the state of data that are all 0.

    There the prediction of the noise is x/sigma, which no step of a flow changes: x follows sigma, and says how far
    down it is.
    """

    def __init__(self, plan: Plan, step: int, jump: Jump) -> None:
        self.plan, self.at, self.jump = plan, step, jump
        self.ops = plan.step(step)

    def stretches(self) -> Iterator[FlowStretch]:
        plan, process = self.plan, self.plan.process
        index = plan.calls_before[plan.starts[self.at]] - 1
        top, call, moved, opens = float(plan.times[self.at]), None, False, True  # type: ignore[arg-type]
        registers = {"x": 1.0}

        def closed(bottom: float) -> FlowStretch:
            assert call is not None
            return FlowStretch(self.at, self.jump, top, bottom, call, opens)

        for k, op in enumerate(self.ops):
            if isinstance(op, Evaluate):
                index += 1
                t = float(op.t)  # type: ignore[arg-type]
                if op.src == "x" and (moved or call is None):
                    self._check_jump(top, t, k, opens and not moved)
                    if moved:
                        yield closed(t)
                        self.jump, opens = Jump(), False
                    top, call, moved, registers = t, index, False, {"x": 1.0}
                a, _ = conversion(DATA, op.want, process, t)
                registers[op.outs[0]] = float(a) * registers.get(op.src, 1.0)
                continue
            assert isinstance(op, Combine)
            if is_jump(op):
                if moved:
                    yield closed(self._below(top, registers["x"], op, k))
                    self.jump, call, moved, opens = Jump(), None, False, False
                c, noise = float(op.terms[0][0]), tuple((float(k), slot) for k, slot in op.noise)  # type: ignore
                earlier = tuple((k * c, slot) for k, slot in self.jump.noise)
                self.jump = Jump(self.jump.ratio * c, earlier + noise)
                continue
            if op.noise:
                raise ValueError(f"noise in {op}, which is not added to the state alone")
            registers[op.out] = sum(float(c) * registers[name] for c, name in op.terms)  # type: ignore[arg-type]
            moved = moved or op.out == "x"
        if moved:
            yield closed(float(plan.times[self.at + 1]))  # type: ignore[arg-type]
            self.jump = Jump()

    def _check_jump(self, below: float, top: float, k: int, opening: bool) -> None:
        """Raise ValueError where the first call of a step, instruction k, is not at the level that its noise led to."""
        if opening:
            ratio = math.prod(float(op.terms[0][0]) for op in self.ops[:k] if isinstance(op, Combine))  # type: ignore
            found = float(self.plan.process.alpha(top)) / float(self.plan.process.alpha(below))
            if not math.isclose(ratio, found, rel_tol=1e-6):
                raise ValueError(
                    f"a call at t={top:g} after a jump from t={below:g} that changes the scale by {ratio:g}"
                )

    def _below(self, top: float, shrunk: float, jump: Combine, k: int) -> float:
        """The time from which `jump`, instruction k of the step, starts: sigma from how far x shrank, alpha from the
        jump's own scale and the time it leads to.
        """
        process, end = self.plan.process, float(self.plan.times[self.at + 1])  # type: ignore[arg-type]
        later = (float(op.t) for op in self.ops[k:] if isinstance(op, Evaluate))  # type: ignore[arg-type]
        alpha = float(process.alpha(next(later, end))) / float(jump.terms[0][0])  # type: ignore[arg-type]
        lam = math.log(alpha / (float(process.sigma(top)) * shrunk))
        # a label of the grid rather than one that rounding has moved
        return end if abs(lam - float(process.lam(end))) < 1e-9 else float(process.time(torch.tensor(lam)))
