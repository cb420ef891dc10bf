"""Tape: a run whose backward pass walks the transposed plan, with one autograd node around the whole.

Of the graph only that node stays between the passes: what the tape keeps, usually the states at the network
calls, and nothing else, grows with the steps. The first call runs with a graph, which is walked to find every
leaf that the network reaches by itself.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from ..solvers import Call
from ..solvers.loop import execute
from ..solvers.program import Evaluator
from .call_state import CallState, CallStates
from .fingerprint import check_repeated
from .graph_walk import sequence_number, strangers
from .inputs import Inputs
from .live_call import LiveCall, live_call, replay
from .region import regions
from .rollout import Registers, Rollout
from .sensitivity import Sensitivity
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
        calls: how each network call can be made again.
        kept: what `record` holds for `pull`: any nesting of tensors. Autograd takes it over after the run.
    """

    kept: Any = None

    def __init__(self, rollout: Rollout, registers: Registers) -> None:
        self.rollout, self.registers = rollout, dict(registers)
        self.inputs = Inputs.of(rollout, registers)
        # a truncated program starts later
        self.first = next((call.index for call in rollout.program.calls()), 0)
        self.calls = CallStates(self.first)

    def forward(self) -> Tensor:
        """The sample, under no_grad but for the first call."""
        with torch.no_grad():
            out = self.execute({name: value.detach() for name, value in self.registers.items()})["x"]
        self.inputs.snapshot.check_buffers("by the forward pass")
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
        around, live = CallState(state.device, self.calls.turns), None
        if not self.calls:
            with around.graph():
                out = self.evaluate_first(call, state)
        elif self.looks_at(call):
            with around.graph():
                live = replay(self.rollout, call, state, self.inputs.shared)
            out = live.out.detach()
        elif self.inputs.wanted:
            out = self.rollout.evaluate(call, state)
        else:
            with around.graph():
                out = self._evaluate_unwanted(call, state)
        self.calls.add(around)
        self.record(call, state, out, live)
        return out

    def evaluate_first(self, call: Call, state: Tensor) -> Tensor:
        """The first call: its graph is walked for what the network captures. Raises Captured."""
        live = live_call(self.rollout, call, state)
        around = hooked_graph(live.out)
        if around:
            raise Captured(around)
        found = live.strangers(self.inputs.shared)
        if found.history:
            raise Captured("a tensor that the network captures with a graph of its own")
        self.inputs = self.inputs.captured(found.leaves)
        return live.out.detach()

    def _evaluate_unwanted(self, call: Call, state: Tensor) -> Tensor:
        """A call of a run in which nothing is known to want a gradient, and which will have no backward pass.

        The first call reached nothing that does; this one may, and says so by an output that requires grad.
        """
        since, state = sequence_number(), state.detach()
        out = self.rollout.evaluate(call, state)
        if out.requires_grad:
            found = strangers(out, [state], since)
            if found:
                raise found.error(call)
        return out.detach()

    def looks_at(self, call: Call) -> bool:
        """Whether the forward pass makes `call` with a graph: to keep it, or as the backward pass will not make it."""
        return False

    @abstractmethod
    def record(self, call: Call, state: Tensor, out: Tensor, live: LiveCall | None) -> None:
        """Keep what the backward pass will need of this call. `live`: its graph, where `looks_at` asked for it."""

    @abstractmethod
    def pull(self, kept: Any, end: Tensor, into: Sensitivity) -> Registers:
        """Cotangents of the registers on entry from that of the sample; those of everything else go `into`."""

    def check(self) -> None:
        """Raise RuntimeError where a replay would not repeat the run, as far as one can tell before it."""
        self.inputs.snapshot.check()

    def sums(self, jumps: dict[int, Tensor]) -> Sensitivity:
        """Where one backward pass adds its gradients up."""
        return Sensitivity(self.rollout, self.inputs.shared, jumps)

    def backward(self, kept: Any, end: Tensor, jumps: dict[int, Tensor]) -> list[Tensor | None]:
        """Gradients of `inputs.wanted` from those of the sample and of caught states."""
        into = self.sums(jumps)
        entry = self.pull(kept, end, into)
        into.sums.update({f"register {name}": value for name, value in entry.items()})
        self.inputs.snapshot.check_buffers("by the backward pass")  # a run of one call has not seen it
        return [into.sums.get(name) for name in self.inputs.wanted]

    def backward_with_graph(self, sign: Tensor, end: Tensor, jumps: dict[int, Tensor]) -> list[Tensor | None]:
        """`backward` for a gradient that will itself be differentiated, which a hand-written pass cannot be.

        The run is made once more, by regions, and autograd differentiates that. `sign`: the sample's mark.
        """
        if is_compiled(self.rollout.model):
            raise RuntimeError(
                "a gradient of the gradient: got a compiled network, expected an eager one: PyTorch "
                "differentiates a compiled graph once; sample with the module that was compiled, or without "
                "create_graph=True"
            )
        again = self.rollout.quiet()
        region: Evaluator = regions(again, offload=False)

        def evaluate(call: Call, state: Tensor) -> Tensor:
            with self.calls.of(call).restored():
                return region(call, state)

        out = again.execute(dict(self.registers), evaluate)["x"]
        check_repeated("the run", sign, out)
        pairs = [(out, end), *((again.caught[step], jump) for step, jump in jumps.items())]
        pairs = [(value, cotangent) for value, cotangent in pairs if value.requires_grad]
        return list(
            torch.autograd.grad(
                [value for value, _ in pairs],
                list(self.inputs.wanted.values()),
                [cotangent for _, cotangent in pairs],
                create_graph=True,
                allow_unused=True,
            )
        )
