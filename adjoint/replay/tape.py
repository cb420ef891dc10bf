"""Tape: a run whose backward pass walks the transposed plan, with one autograd node around the whole.

Of the graph only that node stays between the passes: what the tape keeps, usually the states at the network
calls, and nothing else, grows with the steps. The first call runs with a graph, which is walked for the leaves that
the network reaches by itself and dropped. So do the others, unless the network can be seen through: a leaf that only
a late call reaches, or a memo that the network fills, must be as the plain loop has it.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ...solvers import Call
from ...solvers.loop import execute
from .call_state import CallState, CallStates
from .entrance import Entry, alias, anchor
from .fingerprint import LOOSE, Projection, Replays, check_repeated, tolerance
from .graph_walk import Extent, Reach, entangled, sequence_number
from .handed import handed
from .hooks import hooks_suspended
from .inputs import Inputs
from .live_call import LiveCall, live_call, replay
from .plain_state import plain_state
from .region import Regions
from .rollout import Registers, Rollout
from .sensitivity import Sensitivity
from .snapshot import Snapshot
from .transparent import transparent
from .wrappers import hooked_graph, is_compiled


class Captured(Exception):
    """The network reaches a tensor with a graph of its own, which a node around the run cannot have as its input."""


class Tape(ABC):
    """One run between its forward and its backward pass; strategies differ in `record` and `pull`.

    Args:
        rollout: the run.
        registers: the registers on entry.

    Attributes:
        inputs: what enters the run; the first call adds what the network captures.
        snapshot: how all that, and the network, stood after the first call, which may initialise something.
        calls: how each network call can be made again.
        reached: how much of each call was differentiated.
        plain: flags of the network before the first call.
        disturbed: whether they have changed since.
        seen_through: whether later calls reach no more than the first did, so that they need no graph.
        first_kept: whether the graph of the first call is kept, and its replay never made.
        projection: what outputs are compared by.
        marks: of the calls' outputs, unless `record` keeps none.
        kept: what `record` holds for `pull`: any nesting of tensors. Autograd takes it over after the run.
    """

    kept: Any = None
    seen_through = disturbed = first_kept = False

    def __init__(self, rollout: Rollout, registers: Registers) -> None:
        self.rollout, self.registers = rollout, dict(registers)
        self.inputs = Inputs.of(rollout, registers)
        # a truncated program starts later
        self.first = next((call.index for call in rollout.program.calls()), 0)
        self.calls, self.reached = CallStates(self.first), list[Extent]()
        self.plain = plain_state(rollout.model)
        self.marks = list[Tensor]()

    @cached_property
    def projection(self) -> Projection:
        return Projection(self.registers["x"])

    def forward(self) -> Tensor:
        """The sample."""
        self.since = sequence_number()
        self._anchor()
        with torch.no_grad():
            out = self.execute({name: value.detach() for name, value in self.registers.items()})["x"]
        self.anchor = self.leaf_anchor = None  # no longer than the run: they hold what x was made from
        if not self.calls:
            self.snapshot = self._snapshot()
        self.snapshot.check_buffers("by the forward pass")
        return out

    def execute(self, registers: Registers) -> Registers:
        """Run the program."""
        run = self.rollout
        return execute(run.program, registers, self.evaluate, run.noise, run.before)

    def evaluate(self, call: Call, state: Tensor) -> Tensor:
        """A network call of the forward pass."""
        if not self.calls.turns.draws:
            return self._evaluate(call, state)
        with self.calls.turns.taken():
            return self._evaluate(call, state)

    def _evaluate(self, call: Call, state: Tensor) -> Tensor:
        around, kept, live = CallState(state.device, self.calls.turns), self.keeps(call), None
        self.first_kept |= kept and not self.calls
        if self.seen_through and not kept:
            out = self.rollout.evaluate(call, state)
            self.reached.append(Extent(self.reached[0].known))  # its graph may go by t
        else:
            try:
                with around.graph():
                    live = self.look(call, state, kept) if self.calls else self.look_first(call, state)
            except Captured:
                self.calls.rewind(around)
                raise
            out = live.out.detach()
        self.calls.add(around)
        self.record(call, state, out, live if kept else None)
        return out

    def look_first(self, call: Call, state: Tensor) -> LiveCall:
        """The first call: what it captures enters the run too. Raises Captured."""
        live, found = self._walked(call, state, self.anchor)
        # nothing that enters required grad, as far as one knew: in a replay the state does
        edges = None if self.anchor is None else found.extent.edges
        self.inputs = self.inputs.captured(found.leaves)
        self.snapshot = self._snapshot()
        if found.leaves:
            self._anchor()
        if entangled(self.inputs.shared.values()):
            raise Captured("a tensor of the model with a graph of its own that leads to another one of it")
        known = found.extent.known | {id(leaf) for leaf in found.leaves}
        self.reached.append(Extent(known, edges))
        # it reaches all that later calls can be known to reach
        whole = len(found.extent.known) == len(self.inputs.shared)
        functions = self.rollout.program.plan.functions
        self.seen_through = whole and transparent(self.rollout.model, self.plain, functions)
        return live

    def look(self, call: Call, state: Tensor, kept: bool) -> LiveCall:
        """A later call: it may reach no other leaves than the first one. Raises Captured."""
        live, found = self._walked(call, state, self.leaf_anchor if kept else self.anchor)
        self.inputs.check_later(call, found)
        last = self.reached[-1]
        self.reached.append(
            last if found.extent == last else found.extent
        )  # one object for all that are equal
        return live

    def _walked(self, call: Call, state: Tensor, anchor: Tensor | None) -> tuple[LiveCall, Reach]:
        """The call with its graph, and what it reached. Raises Captured."""
        live = live_call(self.rollout, call, state, Entry(call, anchor))
        if not self.calls and (around := hooked_graph(live.out)):
            raise Captured(around)
        found = live.reach(self.inputs.shared.values(), self.since)
        if found.older:
            raise Captured("a tensor that the network captures with a graph of its own")
        # what can be seen through keeps nothing from call to call: its graph may go while it is differentiated
        return replace(live, shared_graph=not self.seen_through), found

    def _snapshot(self) -> Snapshot:
        return Snapshot(self.rollout.model, self.inputs.every())

    def _anchor(self) -> None:
        wanted = list(self.inputs.wanted.values())
        self.anchor = anchor(wanted) if wanted else None
        # where a graph is kept, its own gradient is taken past the anchor, which must not lead to another run
        self.leaf_anchor = anchor([torch.zeros((), requires_grad=True), *(v for v in wanted if v.is_leaf)])

    def keeps(self, call: Call) -> bool:
        """Whether the graph of `call` is kept for the backward pass."""
        return False

    @abstractmethod
    def record(self, call: Call, state: Tensor, out: Tensor, live: LiveCall | None) -> None:
        """Keep what the backward pass will need of this call. `live`: its graph, where it `keeps` that."""

    @abstractmethod
    def pull(self, kept: Any, end: Tensor, into: Sensitivity) -> Registers:
        """Cotangents of the registers on entry from that of the sample; those of everything else go `into`."""

    def replay(self, call: Call, state: Tensor) -> LiveCall:
        """`call` once more, as it was. Raises RuntimeError where it reaches other inputs than in the forward pass."""
        expected = self.reached[call.index - self.first]
        if expected.edges is None and self.disturbed:
            expected = self.reached[0]
        # A call of which no graph was made may reach less than the first one, by t: a block, an expert for high noise.
        # What else takes something from a replay, a flag or a memo, takes it from the first call's too, and that one is
        # held to all that was seen of it.
        by_t = expected.edges is None and call.index > self.first and not self.first_kept
        with self.calls.of(call).restored():
            return replay(self.rollout, call, state, self.inputs, None if by_t else expected)

    def replays(self) -> Replays:
        """Where one backward pass notes the outputs of its replays."""
        return Replays(self.marks, self.first, self.projection, self.allowed())

    def allowed(self) -> float:
        """By how much an output may differ, relative to itself."""
        return tolerance(
            [self.registers["x"], *self.inputs.common.values()],
            [state.autocast for state in self.calls.states[:1]],
        )

    def check(self) -> None:
        """Raise RuntimeError where a replay would not repeat the run, as far as one can tell before it."""
        self.snapshot.check()
        # the calls that made no graph may go by t; by a flag that was set since they may not
        self.disturbed = self.seen_through and plain_state(self.rollout.model) != self.plain

    def sums(self, wanted: Collection[str], jumps: dict[int, Tensor]) -> Sensitivity:
        """Where one backward pass adds its gradients up."""
        return Sensitivity(self.rollout, self.inputs.shared, wanted, jumps)

    def backward(
        self, kept: Any, end: Tensor, jumps: dict[int, Tensor], wanted: Collection[str]
    ) -> list[Tensor | None]:
        """Gradients of `inputs.wanted`, None but for those `wanted` now, from those of the sample and of caught
        states.
        """
        into = self.sums(wanted, jumps)
        with hooks_suspended(self.inputs.shared.values()):
            entry = self.pull(kept, end, into)
        into.sums.update({f"register {name}": value for name, value in entry.items()})
        self.snapshot.check_buffers("by the backward pass")  # a run of one call has not seen it
        return [into.sums.get(name) if name in wanted else None for name in self.inputs.wanted]

    def backward_with_graph(self, sign: Tensor, end: Tensor, jumps: dict[int, Tensor]) -> list[Tensor | None]:
        """`backward` for a gradient that will itself be differentiated, which a hand-written pass cannot be.

        The run is made once more, by regions and from detached leaves, autograd differentiates that, and what it
        finds is handed back as a function of what the leaves stand for. `sign`: the sample's mark.
        """
        if is_compiled(self.rollout.model):
            raise RuntimeError(
                "a gradient of the gradient: got a compiled network, expected an eager one: PyTorch "
                "differentiates a compiled graph once; sample with the module that was compiled, or without "
                "create_graph=True"
            )
        # parameters and captured leaves are leaves already: what depends on them from outside is cut off here
        shared, wanted = self.inputs.shared, self.inputs.wanted
        stands = {name: value if name in shared else alias(value) for name, value in wanted.items()}
        again = self.rollout.quiet().standing_in(stands)
        registers = {name: stands.get(f"register {name}", value) for name, value in self.registers.items()}
        regions, replays = Regions(again.model, again.declared(), offload=False), self.replays()
        region = regions.evaluate(again)

        def evaluate(call: Call, state: Tensor) -> Tensor:
            with self.calls.of(call).restored():
                out = region(call, state)
            replays.note(call, out)
            return out

        out = again.execute(registers, evaluate)["x"]
        replays.compare()
        check_repeated("the run", sign, Projection(out)(out), max(self.allowed(), LOOSE))
        cotangents = [alias(end), *map(alias, jumps.values())]
        values = [out, *(again.caught[step] for step in jumps)]
        pairs = [(v, c) for v, c in zip(values, cotangents, strict=True) if v.requires_grad]
        with hooks_suspended(shared.values()):
            found = torch.autograd.grad(
                [value for value, _ in pairs],
                list(stands.values()),
                [cotangent for _, cotangent in pairs],
                create_graph=True,
                allow_unused=True,
            )
        leaves = [*stands.values(), *cotangents]
        return handed(found, leaves, [*wanted.values(), end, *jumps.values()])
