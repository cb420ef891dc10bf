"""NodeTape: a run that remembers its states at the grid's nodes, for adjoints that are not the run's own transpose."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from ...solvers import DATA, NOISE, Call, Evaluate, Plan, Process
from ...solvers.prediction import conversion
from ...solvers.program import BoundEvaluate, Program, prepare
from ..replay.fingerprint import check_repeated
from ..replay.graph_walk import Extent
from ..replay.live_call import LiveCall
from ..replay.rollout import Registers, Rollout
from ..replay.sensitivity import Sensitivity
from ..replay.tape import Tape
from ..strategies.gradient import Gradient
from .adjoint_grid import AdjointGrid
from .noise_levels import noise_in_state
from .refusals import refuse_decoupled, refuse_registers, refuse_unpredicted
from .regrid import Regridded
from .resolve import FlowResolver, NoiseResolver, Resolver
from .state_path import KnownPath, ResolvedPath, StatePath
from .states import States, between, reintegrated

# least steps of the adjoint whose table is held at a time: that of a whole run would take memory that grows with N
PIECE = 64


class _Kept(NamedTuple):
    """States at the run's nodes (the last one alone, to re-solve the others from) and data predictions there."""

    nodes: list[Tensor]
    predictions: list[Tensor]


@dataclass(frozen=True, eq=False)
class _Witness:
    """A call of the forward pass that the backward pass makes again, to see that the network is as it was.

    The other calls of the backward pass are not the run's: they tell nothing.
    """

    call: Call
    state: Tensor
    mark: Tensor


class NodeTape(Tape):
    """A run that records the state at each node, and the data prediction there.

    That is x when the step opens. A `staggered` plan's x is half a step on by then, which would leave gradients of
    first order: its state is the register that the network is shown at the node's time.

    Args:
        strategy: named in errors.
        states: where the states of the backward pass come from.
        steps: M; None for the run's own.
        cuts: steps of the plan at whose beginning the field jumps.
    """

    kept: _Kept

    def __init__(
        self,
        rollout: Rollout,
        registers: Registers,
        strategy: Gradient,
        states: States,
        steps: int | None,
        cuts: Sequence[int] = (),
    ) -> None:
        super().__init__(rollout, registers)
        plan, ops = rollout.program.plan, rollout.program.ops
        self.states, self.kept = states, _Kept([], [])
        self.grid = AdjointGrid.over(plan, ops[0].step if ops else 0, steps)
        self.cuts = {step - self.grid.begin for step in cuts}
        at_nodes = {} if states is States.RESOLVED else _calls_at_nodes(rollout.program)
        self.to_data = _to_data(at_nodes.values(), plan.process) if states is States.INTEGRATED else {}
        # of a staggered plan: the node at which a call is made, by the call's index
        self.node_of = {item.call.index: node for node, item in at_nodes.items() if plan.staggered}
        self.shown: dict[int, Tensor] = {}  # states of nodes whose steps have not opened yet
        self.witness: _Witness | None = None
        plan.check_numbers(str(strategy))
        refuse_registers(strategy, registers)
        refuse_unpredicted(plan, states, len(self.to_data), self.grid)
        refuse_decoupled(strategy, states, rollout, self.grid)
        if states is States.RESOLVED:
            self._resolver()  # which refuses what it cannot solve for; the one in use is made when it is needed

    def execute(self, registers: Registers) -> Registers:
        def before(step: int, live: Registers) -> None:
            self.rollout.before(step, live)
            if self.states is not States.RESOLVED:
                self.kept.nodes.append(self.shown.pop(step, live["x"]))

        done = self.rollout.execute(registers, self.evaluate, before=before)
        self.kept.nodes.append(done["x"].clone())  # the sample is the caller's, to write to
        return done

    def record(self, call: Call, state: Tensor, out: Tensor, live: LiveCall | None) -> None:
        if self.witness is None:
            self.witness = _Witness(call, state, self.projection(out))
        if call.index in self.to_data:
            a, b = self.to_data[call.index]
            self.kept.predictions.append(a * state + b * out)
        if call.index in self.node_of:
            self._shown_at(self.node_of[call.index], state)
        if self.calls.of(call).random:
            raise ValueError(
                "a continuous adjoint evaluates the network elsewhere than the run did: got a network that "
                "draws random numbers, expected a deterministic one; call eval(), or use Checkpoint()"
            )

    def _shown_at(self, node: int, state: Tensor) -> None:
        opened = node - self.grid.begin
        if opened < len(self.kept.nodes):
            self.kept.nodes[opened] = state
        else:
            self.shown[node] = state

    def restored(self) -> AbstractContextManager[None]:
        """Autocast as in the run, for a call that the run did not make; grad mode on."""
        assert self.witness is not None
        return self.calls.of(self.witness.call).restored()

    def check(self) -> None:
        super().check()
        seen = self.witness
        assert seen is not None
        # with a graph, as the run had one: a network may compute otherwise without
        out = self.replay(seen.call, seen.state).out
        name = f"network call {seen.call.index} of step {seen.call.step}"
        check_repeated(name, seen.mark, self.projection(out), self.allowed())

    def sums(self, wanted: Collection[str], jumps: dict[int, Tensor]) -> Sensitivity:
        # calls at other times, whose graphs may be of another size
        known = {extent.known for extent in self.reached}
        alike = Extent(known.pop()) if len(known) == 1 else None
        return Regridded(self.rollout, self.inputs, wanted, jumps, self.grid, alike)

    def path(self, kept: _Kept) -> StatePath:
        """The states at the adjoint's nodes, for one backward pass."""
        grid, process = self.grid, self.rollout.program.plan.process
        if self.states is States.RESOLVED:
            return ResolvedPath(self._resolver(), kept.nodes[0], grid.steps)
        states = kept.nodes
        if self.states is States.INTEGRATED:
            states = reintegrated(process, grid.times, kept.nodes, kept.predictions, self.cuts)
            if grid.index is None:
                return KnownPath(between(process, grid.times, states, kept.predictions, grid.at, self.cuts))
        assert grid.index is not None
        return KnownPath([states[k] for k in grid.index])

    def _resolver(self) -> Resolver:
        plan = self.rollout.program.plan
        if plan.stochastic:
            return NoiseResolver(plan, self.rollout.noise, self.grid.begin)
        return FlowResolver(plan.process, self.grid.at)

    def noise_calls(self, times: Sequence[float], like: Tensor) -> list[Call]:
        """Network calls for the noise prediction at `times`."""
        process = self.rollout.program.plan.process
        ops = tuple(Evaluate((f"E{k}",), "x", t, NOISE) for k, t in enumerate(times))
        probe = Plan("nodes", process, tuple(times), ops, tuple(range(len(ops))), 1, False)
        return list(prepare(probe, self.rollout.model, like).calls())

    def noise_calls_backwards(self, like: Tensor) -> Iterator[tuple[int, Call]]:
        """(node, network call for the noise prediction there), from the last node of the adjoint to its second."""
        for high in range(self.grid.steps + 1, 1, -PIECE):
            low = max(high - PIECE, 1)
            calls = self.noise_calls(self.grid.at[low:high], like)
            for node in range(high - 1, low - 1, -1):
                yield node, calls.pop()

    def injected(self, step: int, cotangent: Tensor, into: Sensitivity) -> None:
        """Gradients of the noise that step `step` of the run added to the state."""
        for slot, c in noise_in_state(self.rollout.program.plan.step(step)).items():
            into.noise(slot - self.grid.begin, cotangent, c)

    def backward_with_graph(self, sign: Tensor, end: Tensor, jumps: dict[int, Tensor]) -> list[Tensor | None]:
        raise RuntimeError(
            "a continuous adjoint cannot be differentiated once more: got create_graph=True, expected a backward "
            "pass without a graph; use Direct(), Checkpoint() or Reversible()"
        )


def _calls_at_nodes(program: Program) -> dict[int, BoundEvaluate]:
    """The first call at the state of each node, none at the sample."""
    found: dict[int, BoundEvaluate] = {}
    plan = program.plan
    for item in program.ops:
        if not isinstance(item, BoundEvaluate):
            continue
        # a staggered plan is at a node when it calls there, in whichever step and register
        node = item.step + (plan.staggered and item.op.t == plan.times[item.step + 1])
        own = plan.staggered or item.op.src == "x"
        if own and node < plan.steps and item.op.t == plan.times[node]:
            found.setdefault(node, item)
    return found


def _to_data(calls: Iterable[BoundEvaluate], process: Process) -> dict[int, tuple[Tensor, Tensor]]:
    """{index of a call: (a, b)}: its data prediction is a state + b output."""
    return {item.call.index: conversion(item.op.want, DATA, process, item.op.t) for item in calls}  # type: ignore
