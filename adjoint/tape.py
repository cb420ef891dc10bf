"""Trajectory: one autograd node around the whole run; its backward pass walks the transposed plan.

Of the graph only this node stays between the passes: the states at the network calls, and nothing else, grow
with the steps. The first call runs with a graph, which is walked to find every leaf that the network reaches
by itself.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..solvers import Call, Model
from ..solvers.program import Evaluator
from .call_state import Surroundings
from .fingerprint import changed, compare, drift, mark
from .leaves import now, undeclared
from .region import regions
from .rollout import Rollout
from .sensitivity import Sensitivity, late
from .snapshot import Snapshot
from .transpose import transpose


class Captured(Exception):
    """The network reaches a tensor with a graph of its own, which a node around the run cannot have as its input."""


class Tape:
    """One run between its forward and its backward pass; strategies differ in `record` and `pull`.

    Args:
        rollout: the run.
        registers: the registers on entry.
    """

    # whether to look at every call's graph in the forward pass: where the backward pass will not see them all
    strict = False

    def __init__(self, rollout: Rollout, registers: dict[str, Tensor]) -> None:
        self.rollout, self.registers = rollout, dict(registers)
        self.declared = (
            rollout.declared()
        )  # once: a walk over the modules of a large network takes milliseconds
        shared = {
            name: value
            for name, value in self.declared.items()
            if name.startswith("parameter ") and value.requires_grad
        }
        self.sensitivity = Sensitivity(rollout, shared)
        self.snapshot, self.wanted = self._snapshot(), bool(self.inputs())
        self.around: list[Surroundings] = []
        # a truncated program starts later
        self.first = next((call.index for call in rollout.program.calls()), 0)

    def forward(self) -> Tensor:
        """The sample, under no_grad but for the first call."""
        with torch.no_grad():
            detached = {name: value.detach() for name, value in self.registers.items()}
            out = self.execute(detached)["x"]
        self.snapshot.check_buffers("by the forward pass")
        self.mark = mark(out)
        return out

    def _snapshot(self) -> Snapshot:
        entering = {f"register {name}": value for name, value in self.registers.items()}
        return Snapshot(self.rollout, self.declared | entering | self.sensitivity.shared)

    def execute(self, registers: dict[str, Tensor]) -> dict[str, Tensor]:
        """Run the program."""
        return self.rollout.execute(registers, self._evaluate)

    def _evaluate(self, call: Call, state: Tensor) -> Tensor:
        around = Surroundings(state.device)
        if self.around and self.strict:
            with around.graph():
                out = self.sensitivity.replay(call, state).out.detach()
        elif self.around:
            out = self.rollout.evaluate(call, state) if self.wanted else self._unwanted(call, state, around)
        else:
            with around.graph():
                out = self._first(call, state)
            self.snapshot.check_buffers("by the forward pass")
        self.sealed(around)
        self.record(call, state)
        return out

    def sealed(self, around: Surroundings) -> None:
        """Note how the call just made can be repeated."""
        around.seal()
        # one object for a thousand calls
        self.around.append(self.around[-1] if self.around and around == self.around[-1] else around)

    def _first(self, call: Call, state: Tensor) -> Tensor:
        replay, start = self.sensitivity.call(call, state)
        found, captured = self.sensitivity.strangers(replay, start)
        if captured:
            raise Captured("a tensor that the network captures with a graph of its own")
        self.sensitivity.shared.update({f"captured tensor {k}": leaf for k, leaf in enumerate(found)})
        self.snapshot, self.wanted = self._snapshot(), bool(self.inputs())
        return replay.out.detach()

    def _unwanted(self, call: Call, state: Tensor, around: Surroundings) -> Tensor:
        """A call where nothing is known to want a gradient: without a replay, only its output tells what it reached."""
        with around.graph():
            start, state = now(), state.detach()
            out = self.rollout.evaluate(call, state)
        if out.requires_grad and any(undeclared(out, [state], start)):
            raise late(call, "a tensor that requires grad and that")
        return out.detach()

    def record(self, call: Call, state: Tensor) -> None:
        """Keep what the backward pass will need of this call."""

    def kept(self) -> list[Tensor]:
        """Hand the recorded tensors over: autograd holds them, and frees them after a backward pass."""
        return []

    def pull(self, saved: Sequence[Tensor], end: Tensor, into: Sensitivity) -> dict[str, Tensor]:
        """Cotangents of the registers on entry; those of everything else are added `into`."""
        raise NotImplementedError

    def fresh(self) -> Sensitivity:
        """Sums for one backward pass."""
        return Sensitivity(self.rollout, self.sensitivity.shared)

    def inputs(self) -> dict[str, Tensor]:
        """Every tensor that wants a gradient, by name."""
        found = {f"register {name}": value for name, value in self.registers.items()}
        found.update(self.declared | self.sensitivity.shared)
        return {name: value for name, value in found.items() if value.requires_grad}

    def backward(self, saved: Sequence[Tensor], end: Tensor, jumps: dict[int, Tensor]) -> list[Tensor | None]:
        """Gradients of `inputs()` from those of the sample and of caught states."""
        self.snapshot.check()
        if torch.is_grad_enabled():
            return self._again(end, jumps)
        into = self.fresh()
        into.jumps = jumps
        entry = self.pull(saved, end, into)
        into.sums.update({f"register {name}": value for name, value in entry.items()})
        return [into.sums.get(name) for name in self.inputs()]

    def _again(self, end: Tensor, jumps: dict[int, Tensor]) -> list[Tensor | None]:
        """A gradient that will itself be differentiated: the run once more, by regions, which autograd sees through."""
        if is_compiled(self.rollout.model):
            raise RuntimeError(
                "a gradient of the gradient: got a compiled network, expected an eager one: PyTorch "
                "differentiates a compiled graph once; sample with the module that was compiled, or without "
                "create_graph=True"
            )

        def replayed(call: Call, state: Tensor) -> Tensor:
            with self.around[call.index - self.first].restored():
                return inner(call, state)

        quiet = replace(self.rollout, watch=lambda step, x: None, caught={})
        inner: Evaluator = regions(quiet, offload=False)
        out = quiet.execute(dict(self.registers), replayed)["x"]
        if not drift(self.mark, mark(out)) <= 1:
            raise changed("the run")
        outs, ends = [out, *(quiet.caught[step] for step in jumps)], [end, *jumps.values()]
        pairs = [(o, e) for o, e in zip(outs, ends, strict=True) if o.requires_grad]
        outs, ends = [o for o, _ in pairs], [e for _, e in pairs]
        return list(
            torch.autograd.grad(
                outs, list(self.inputs().values()), ends, create_graph=True, allow_unused=True
            )
        )


class Recorded(Tape):
    """Keeps the state at every network call."""

    def __init__(self, rollout: Rollout, registers: dict[str, Tensor], offload: bool) -> None:
        super().__init__(rollout, registers)
        self.offload, self.states, self.marks = offload, [], []

    def _evaluate(self, call: Call, state: Tensor) -> Tensor:
        out = super()._evaluate(call, state)
        self.marks.append(mark(out))
        return out

    def record(self, call: Call, state: Tensor) -> None:
        self.states.append(state.to("cpu") if self.offload else state)

    def kept(self) -> list[Tensor]:
        kept, self.states = self.states, []
        return kept

    def pull(self, saved: Sequence[Tensor], end: Tensor, into: Sensitivity) -> dict[str, Tensor]:
        seen: dict[int, tuple[Call, Tensor]] = {}

        def pull(call: Call, _: str, cotangent: Tensor) -> Tensor | None:
            place = call.index - self.first
            with self.around[place].restored():
                replay = into.replay(call, saved[place].to(end.device))
                seen[place] = call, mark(replay.out)
                return into.back(call, replay, cotangent)

        entry = transpose(self.rollout.program, end, pull, into)
        compare(self.marks, seen)
        return entry


def is_compiled(model: Model) -> bool:
    """Whether torch.compile stands around any of the model's modules."""
    return any(
        "_orig_mod" in module._modules or vars(module).get("_compiled_call_impl") is not None
        for network in model.networks()
        for module in network.modules()
    )


class _Node(torch.autograd.Function):
    """The run as seen by autograd."""

    @staticmethod
    def forward(ctx: Any, tape: Tape, outs: list[Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.tape, ctx.steps, ctx.like = (
            tape,
            list(tape.rollout.caught),
            outs[0].new_zeros(()).expand(outs[0].shape),
        )
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tape.kept())
        found = tuple(outs)
        outs.clear()
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        end = grads[0] if grads[0] is not None else ctx.like
        jumps = {step: grad for step, grad in zip(ctx.steps, grads[1:], strict=True) if grad is not None}
        return None, None, *ctx.tape.backward(ctx.saved_tensors, end, jumps)


def differentiable(tape: Tape) -> Tensor:
    """Run the tape forwards; the sample's backward pass is the tape's."""
    out, caught = tape.forward(), tape.rollout.caught
    inputs = tape.inputs().values()
    if not inputs:
        return out
    # a state caught at the entry is an input, and an output must be a tensor of its own
    outs = [out, *(state.to(out.dtype).clone() for state in caught.values())]
    out, *states = _Node.apply(tape, outs, *inputs)  # type: ignore[misc]
    caught.update(zip(list(caught), states, strict=True))
    return out
