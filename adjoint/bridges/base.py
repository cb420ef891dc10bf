"""Outside: a rollout whose states come from another library's solver, so that our strategies can stand behind it."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...solvers import Plan
from ...solvers.per_step import at_step
from ...solvers.program import Evaluator, Program
from ..continuous.adjoint_deis import AdjointDEIS
from ..continuous.second_plan import Continuous
from ..continuous.states import States
from ..replay.graph_walk import sequence_number
from ..replay.live_call import live_call
from ..replay.rollout import Before, Registers, Rollout
from ..strategies.direct import Direct
from ..strategies.gradient import Gradient
from .backsolve import Backsolve
from .fields import Field, Velocity

# what can differentiate a run whose steps another library took
Inner = Continuous | AdjointDEIS | Direct | Backsolve | None


class Bridge(Gradient, ABC):
    """A strategy whose value, too, is not the plan's: the plan gives the times, another library the states there."""

    gradient: Gradient | Backsolve | None

    @property
    def samples(self) -> bool:
        return self.gradient is None

    @property
    def follows_plan(self) -> bool:
        return False

    def check_gradient(self) -> None:
        """Raise ValueError where `gradient` would differentiate the plan's own steps."""
        inner = self.gradient
        if not isinstance(inner, Inner):
            raise ValueError(
                f"{type(self).__name__}: got gradient={inner}, expected Continuous, AdjointDEIS, Direct, "
                "Backsolve or None: the others transpose the plan, which did not run"
            )
        if isinstance(inner, Continuous) and inner.states is States.INTEGRATED:
            raise ValueError(
                f"{type(self).__name__}: got {inner}, expected states=States.RECORDED or RESOLVED: the "
                "solver's states are as good as its tolerance, and there are no predictions at the nodes to "
                "improve them with"
            )

    @abstractmethod
    def check_plan(self, plan: Plan) -> None:
        """Raise ValueError for a stochastic plan where an ODE is solved, for a deterministic one where an SDE is."""

    @abstractmethod
    def solve(
        self, outside: "Outside", field: Field, x: Tensor, times: Sequence[float], step: int
    ) -> list[Tensor]:
        """States at times[1:], from x at times[0], the time of the plan's node `step`."""

    @abstractmethod
    def backsolved(
        self, outside: "Outside", adjoint: Backsolve, x: Tensor, times: Sequence[float], step: int
    ) -> list[Tensor]:
        """As `solve`, with a graph that is their own adjoint."""

    def run(self, rollout: Rollout, registers: Registers) -> Registers:
        plan, ops = rollout.program.plan, rollout.program.ops
        if plan.batch is not None:
            raise ValueError(
                f"{self}: got a grid for each of {plan.batch} samples, expected one grid for all"
            )
        if not ops or ops[0].step or ops[-1].step != plan.steps - 1:
            raise ValueError(
                f"Truncated: got {self} inside, whose first steps would be the plan's; expected Checkpoint "
                "or Direct"
            )
        if rollout.program.learned:
            raise ValueError(
                f"{self}: got coefficients that require grad, expected none: the plan's steps are not taken"
            )
        plan.check_affine(str(self))  # the plan's steps, and what else is done in them, are not taken
        self.check_plan(plan)
        velocity = Velocity(rollout.model, plan.stochastic)
        outside, inner = Outside(**vars(rollout), bridge=self, velocity=velocity), self.gradient
        if inner is None:
            with torch.no_grad():
                return outside.execute(registers)
        if isinstance(inner, Backsolve):
            self._look_for_captured(outside, registers["x"])
            return outside.execute(registers)
        return inner.run(outside, registers)

    def cost(self, plan: Plan) -> tuple[int, int]:
        """A lower bound: what the other solver takes is known when it has run."""
        return self.gradient.cost(plan) if isinstance(self.gradient, Gradient) else (plan.steps, plan.steps)

    def _look_for_captured(self, rollout: "Outside", x: Tensor) -> None:
        """One call with a graph: what it reaches and nobody declared would get no gradient from theirs, silently."""
        known = {name: value for name, value in rollout.declared().items() if value.requires_grad}
        call = rollout.velocity.call(_times(rollout.program.plan)[0], x)
        with torch.enable_grad():
            since = sequence_number()
            found = live_call(rollout, call, x).reach(known.values(), since)
        if found.leaves or found.older:
            what = (
                f"a leaf of shape {tuple(found.leaves[0].shape)}" if found.leaves else "a tensor with a graph"
            )
            raise ValueError(
                f"{self}: got a network that captures {what}, which the adjoint would not see; pass it in "
                "cond, register it as a parameter, or use gradient=Direct()"
            )


@dataclass(frozen=True, eq=False, kw_only=True)
class Outside(Rollout):
    """A rollout in which `bridge` takes the steps. The run is cut at the nodes where something enters."""

    bridge: Bridge
    velocity: Velocity

    def seen(self, step: int) -> Any:
        """The conditioning of `step`."""
        return at_step(self.cond, step) if self.scheduled else self.cond

    def execute(
        self,
        registers: dict[str, Tensor],
        evaluate: Evaluator | None = None,
        program: Program | None = None,
        before: Before | None = None,
    ) -> dict[str, Tensor]:
        evaluate, before, times = evaluate or self.evaluate, before or self.before, _times(self.program.plan)
        count, n = itertools.count(), len(times) - 1
        cut = self.scheduled or self.controls is not None or self.program.plan.stochastic
        inner = self.bridge.gradient
        for first, last in itertools.pairwise(range(n + 1) if cut else (0, n)):
            before(first, registers)
            stretch, step = times[first : last + 1], first

            def field(t: float, x: Tensor, step: int = step) -> Tensor:
                return evaluate(self.velocity.call(t, x, next(count), step), x)

            if isinstance(inner, Backsolve):
                states = self.bridge.backsolved(self, inner, registers["x"], stretch, step)
            else:
                states = self.bridge.solve(self, field, registers["x"], stretch, step)
            for k, state in enumerate(states, first + 1):
                if not bool(state.detach().isfinite().all()):
                    raise FloatingPointError(
                        f"{self.bridge}: the state at node {k}, t={times[k]:.6g}, is not finite; check the "
                        "network near there, the tolerance or step, and the ends of the grid"
                    )
                registers["x"] = state
                if k < last:
                    before(k, {"x": state})
        return registers


def _times(plan: Plan) -> list[float]:
    return [float(t) for t in plan.times if not isinstance(t, tuple)]
