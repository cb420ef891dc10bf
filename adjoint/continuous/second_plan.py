"""Continuous: values of one plan, gradients of a second."""

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ...solvers import DATA, EDMPEC, Call, Evaluate, GivenNoise, Method, OnData, Plan
from ...solvers.instructions import reads, writes
from ...solvers.program import prepare
from ..replay.rollout import Registers, Rollout
from ..replay.sensitivity import Sensitivity
from ..replay.tape import Tape
from ..replay.transpose import transpose
from ..strategies.gradient import Gradient
from ..strategies.taped import Taped
from .adjoint_grid import AdjointGrid
from .nodes import PIECE, NodeTape
from .regrid import Regridded
from .resolve import as_noise
from .state_path import ResolvedPath, StatePath
from .states import States

# nodes on which a second plan is tried before the run: what a method does at its start it has done by then,
# and the whole plan is made in the backward pass only, for it takes memory
TRIED = 16


@dataclass(frozen=True)
class Continuous(Taped):
    """The gradient of the flow itself rather than of the run: the transpose of a second plan, at the states
    of the first.

    The second plan is `method` on M steps of the run's grid; its Jacobians are taken at the run's states, by
    default re-integrated, which costs no network call. It is not the gradient of the sample that was returned: where
    that counts, take `Checkpoint`. Below N steps it costs less.

    Which is closer to the flow's gradient depends on the network (`benchmarks/continuous.py`, N = 20 to 80, errors at
    the start as multiples of the exact discrete gradient's of 2M). Where the network is a posterior mean, as a trained
    one is nearly, its Jacobian changes along the state error, re-integrated states are what helps, and `EDMPEC()` fits
    it: 0.16 to 0.35. A network with random weights is no posterior mean, its Jacobian hardly feels the state error, and
    what is left is whether the base suits it: `EDMPEC()` is 1.2 to 2.9 times worse on noise predictions, 1 to 7 on data
    predictions (13 at conditioning), 0.3 to 0.8 on v. The base that the run itself used, `method=DPMSolverPP(2)` for
    2M, was at most 1.26 times worse anywhere and 0.17 to 0.74 on the posterior means: take it where in doubt.

    On a rising grid, from data to noise, it is the same. A field that jumps in t, as a schedule's edge makes it, needs
    `cuts` and a second plan whose steps predict for themselves at both ends, `FlowHeun()` or `EDMHeun()`: a multistep
    one mixes the fields of both sides. `rf_inversion` sets the cuts, and refuses a controller that holds to its end.

    Args:
        steps: M, by default as many as the run's. Fewer take nodes of the run; more divide its steps in
            lambda.
        method: `EDMPEC()` by default; `DPMSolverPP`, `DEIS`, `DDIM`: any method with one prediction a step,
            at the nodes, or one at each end of a step. For a stochastic run a stochastic one with the same marginals,
            as `DDIM(1.0)` for `DDPM()`.
        states: INTEGRATED by default, RECORDED for a stochastic run, RESOLVED for memory that is flat in N.
        cuts: steps of the run, 1 to N - 1, at whose beginning the field jumps.

    Cost: M replays and VJPs, twice as many where `method` calls twice a step, and one call to see that the network is
    as it was.
    Source: ours; states in the spirit of Kim et al. 2021, arXiv 2109.06098.
    """

    steps: int | None = None
    method: Method = field(default_factory=EDMPEC)
    states: States = States.INTEGRATED
    cuts: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.cuts, tuple) or not all(type(step) is int for step in self.cuts):
            raise TypeError(f"Continuous: got cuts={self.cuts!r}, expected a tuple of steps, such as (7,)")
        if self.steps is not None and self.steps < 1:
            raise ValueError(
                f"Continuous: got steps={self.steps}, expected at least 1, or None for the run's own"
            )

    def tape(self, rollout: Rollout, registers: Registers) -> Tape:
        _refuse_marginals(self, rollout.program.plan)
        return _SecondPlan(rollout, registers, _on_the_same_data(self, rollout.program.plan))

    def halved(self, plan: Plan) -> tuple[Gradient, int] | None:
        steps = self.steps or plan.steps
        if steps < 4 or self.cuts or (plan.stochastic and self.states is States.RESOLVED):
            return None
        return replace(self, steps=steps // 2), min(self.method.order, 2)

    def cost(self, plan: Plan) -> tuple[int, int]:
        first = self.method.along(plan.process, torch.tensor(plan.times[:2], dtype=torch.float64))
        m = (self.steps or plan.steps) * max(first.nfe, 1)
        return plan.nfe + m + 1 + (self.states is States.RESOLVED), m


def _on_the_same_data(strategy: Continuous, plan: Plan) -> Continuous:
    """`strategy` with a second plan that treats its data predictions as `plan` does. Raises ValueError where `plan`
    treats some of its predictions otherwise, or where states are re-solved, which takes the network's own.
    """
    calls = [op for op in plan.instructions if isinstance(op, Evaluate)]
    found = {(op.then, op.want, len(op.outs)) for op in calls} if plan.functions else set()
    if len(found) != 1 or strategy.states is States.RESOLVED or calls[0].want != DATA or calls[0].outs[1:]:
        plan.check_affine(str(strategy))
        return strategy
    return replace(strategy, method=OnData(strategy.method, plan.functions[0]))


def _refuse_marginals(strategy: Continuous, plan: Plan) -> None:
    """Raise ValueError where one of the two plans is stochastic and the other is not."""
    if plan.stochastic and (not strategy.method.stochastic or strategy.states is States.INTEGRATED):
        raise ValueError(
            f"{strategy}: got the stochastic {plan.name}, expected a stochastic method with its "
            "marginals and recorded or re-solved states: Continuous(method=DDIM(1.0), "
            "states=States.RECORDED) for DDPM()"
        )
    if strategy.method.stochastic and not plan.stochastic:
        raise ValueError(f"{strategy}: got the deterministic {plan.name}, expected a deterministic method")


def _refuse_second(strategy: Continuous, rollout: Rollout, at: list[float], x: Tensor) -> None:
    """Raise ValueError where the second plan does not predict at the nodes `at`, or shares its noise otherwise."""
    plan, head = rollout.program.plan, at[:TRIED]
    second = strategy.method.along(plan.process, torch.tensor(head, dtype=torch.float64))
    prepare(second, rollout.model, x)
    for i in range(second.steps):
        calls = [op for op in second.step(i) if isinstance(op, Evaluate)]
        # a corrector's step may have made the prediction that the next one begins with
        if second.calls and all(op.t in head[i : i + 2] for op in calls):
            continue
        raise ValueError(
            f"{strategy}: got {strategy.method}, which predicts at t={[op.t for op in calls]} in its step from "
            f"{head[i]:g} to {head[i + 1]:g}, expected one at each node but the last, or at both ends of a step: the "
            "run's states are known there; take EDMPEC(), DPMSolverPP(2) or FlowHeun()"
        )
    one_slot_a_step = plan.slots == plan.steps and second.slots == second.steps
    wanted = isinstance(rollout.noise, GivenNoise) and rollout.noise.values.requires_grad
    if wanted and not one_slot_a_step:
        raise ValueError(
            f"{strategy}: got noise that requires grad and {plan.slots} slots for {plan.steps} steps, "
            "expected one slot a step in the run and in the second plan"
        )


def _refuse_cuts(strategy: Continuous, grid: AdjointGrid, plan: Plan) -> None:
    """Raise ValueError where an interval of the adjoint or a prediction of the second plan would span a jump."""
    if not strategy.cuts:
        return
    if not all(0 < c < plan.steps for c in strategy.cuts):
        raise ValueError(
            f"{strategy}: got cuts={strategy.cuts}, expected steps of the run after its first, 1 to {plan.steps - 1}"
        )
    n = len(grid.times) - 1
    met = range(n + 1) if grid.index is None and grid.steps % n == 0 else grid.index or ()
    lost = [c for c in strategy.cuts if c > grid.begin and c - grid.begin not in met]
    if lost:
        raise ValueError(
            f"{strategy}: got cuts at the steps {lost}, expected steps of {plan.name} that the {grid.steps} "
            "intervals of the adjoint meet; use steps=None"
        )
    second = strategy.method.along(plan.process, torch.tensor(grid.at[:TRIED], dtype=torch.float64))
    for i in range(second.steps):
        made = {"x"}
        for op in second.step(i):
            if not made.issuperset(reads(op)):
                raise ValueError(
                    f"{strategy}: got the multistep {strategy.method}, whose step {i} reads predictions from before a "
                    "cut, expected steps of their own; take FlowHeun() or EDMHeun()"
                )
            made.update(writes(op))


class _SecondPlan(NodeTape):
    """The run, with the second plan to be transposed at its states."""

    def __init__(self, rollout: Rollout, registers: Registers, strategy: Continuous) -> None:
        super().__init__(rollout, registers, strategy, strategy.states, strategy.steps, strategy.cuts)
        _refuse_second(strategy, rollout, self.grid.at, registers["x"])
        _refuse_cuts(strategy, self.grid, rollout.program.plan)
        self.method = strategy.method

    def pull(self, kept: Any, end: Tensor, into: Sensitivity) -> Registers:
        assert isinstance(into, Regridded)
        path, n = self.path(kept), self.grid.steps
        if isinstance(path, ResolvedPath):
            path.predicted(self._prediction_at_the_end(path.state(n)))
        cotangents, times = {"x": end}, torch.tensor(self.grid.at, dtype=torch.float64)
        process = self.rollout.program.plan.process
        # a piece is emitted from the first step on: pieces of a fixed length would take n^2 of the processor's time
        length = max(PIECE, math.isqrt(16 * n))
        for low in range((n - 1) // length * length, -1, -length):
            piece = self.method.part(process, times, low, min(low + length, n))
            vjps = _AtTheStates(self, piece, path, into)
            cotangents = transpose(prepare(piece, self.rollout.model, end), cotangents, vjps, into)
        return cotangents

    def _prediction_at_the_end(self, x: Tensor) -> Tensor:
        """The noise prediction at the sample: one more network call."""
        (call,) = self.noise_calls(self.grid.at[-1:], x)
        with torch.no_grad(), self.restored():
            return self.rollout.evaluate(call._replace(step=self.rollout.program.plan.steps - 1), x).detach()


class _AtTheStates:
    """VJPs of the calls of a piece of the second plan, at the states of the run instead of its own."""

    def __init__(self, tape: _SecondPlan, piece: Plan, path: StatePath, into: Regridded) -> None:
        self.tape, self.piece, self.path, self.into = tape, piece, path, into
        calls = piece.calls
        self.kinds, self.times = [op.want for op in calls], [op.t for op in calls]

    def __call__(self, call: Call, _: str, cotangent: Tensor) -> Tensor | None:
        at = self.tape.grid.at
        t = self.times[call.index]
        node = call.step if t == at[call.step] else call.step + 1
        x = self.path.state(node)
        with self.tape.restored():
            out, back = self.into.vjp_at(call, [(call.step, 1.0)], x, cotangent)
        if node and isinstance(self.path, ResolvedPath):
            self.path.predicted(as_noise(self.piece.process, at[node], x, out, self.kinds[call.index]))
        return back
