"""Segmented: a run that keeps snapshots of some steps, and comes back to the states between them by running again."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..solvers import Call
from ..solvers.program import Program
from .call_state import Surroundings
from .fingerprint import compare, mark
from .gradient import Registers
from .rollout import Rollout
from .schedule import Keep, choose, split
from .sensitivity import Replay, Sensitivity
from .tape import Tape
from .transpose import transpose


class Segmented(Tape):
    """The Tape of Checkpoint(memory_budget=..., recursive=...)."""

    def __init__(
        self,
        rollout: Rollout,
        registers: Registers,
        budget: int | None,
        recursive: bool,
        offload: bool,
        say: Callable[[Keep], None],
    ) -> None:
        super().__init__(rollout, registers)
        self.budget, self.recursive, self.offload, self.say = budget, recursive, offload, say
        program, ops = rollout.program, rollout.program.ops
        self.whole = program.whole()
        self.begin = ops[0].step
        self.steps = ops[-1].step - self.begin + 1
        self.calls = sum(1 for _ in program.calls())
        self.keep: Keep | None = None
        self.snapshots: dict[int, Registers] = {}
        self.states: dict[int, Tensor] = {}
        self.replays: dict[int, Replay] = {}
        self.marks: list[Tensor] = []
        self.held = 0

    def execute(self, registers: Registers) -> Registers:
        def before(step: int, live: Registers) -> None:
            self.held = sum(value.nbytes for value in live.values())
            if self.keep is not None and step - self.begin in self.keep.snapshots:
                self.snapshots[step - self.begin] = {name: self._put(value) for name, value in live.items()}
            self.rollout.before(step, live)

        return self.rollout.execute(registers, self._evaluate, before=before)

    def _evaluate(self, call: Call, state: Tensor) -> Tensor:
        keep = self.keep
        if keep is None or call.index - self.first < self.calls - keep.activations:
            out = super()._evaluate(call, state)
        else:
            around = Surroundings(state.device)
            with around.graph():
                self.replays[call.index] = self.sensitivity.replay(call, state)
            self.sealed(around)
            self.record(call, state)
            out = self.replays[call.index].out.detach()
        self.marks.append(mark(out))
        return out

    def _first(self, call: Call, state: Tensor) -> Tensor:
        seen: dict[int, int] = {}
        own = {value.untyped_storage().data_ptr() for value in self.sensitivity.shared.values()}

        def count(tensor: Tensor) -> Tensor:
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            out = super()._first(call, state)
        size = sum(nbytes for place, nbytes in seen.items() if place not in own)
        state_bytes, held = (0, 0) if self.offload else (state.nbytes, max(self.held, state.nbytes))
        self.keep = choose(self.calls, self.steps, state_bytes, held, size, self.budget, self.recursive)
        self.say(self.keep)
        return out

    def record(self, call: Call, state: Tensor) -> None:
        assert self.keep is not None
        if call.step - self.begin >= (0, *self.keep.snapshots)[-1]:
            last = self.steps - (0, *self.keep.snapshots)[-1]
            if last <= self.keep.leaf:
                self.states[call.index] = self._put(state)

    def _put(self, value: Tensor) -> Tensor:
        return value.to("cpu") if self.offload else value

    def kept(self) -> list[Tensor]:
        held = [
            *self.states.values(),
            *(value for live in self.snapshots.values() for value in live.values()),
        ]
        self.names = list(self.states), {step: list(live) for step, live in self.snapshots.items()}
        self.states, self.snapshots = {}, {}
        return held

    def pull(self, saved: Sequence[Tensor], end: Tensor, into: Sensitivity) -> Registers:
        assert self.keep is not None
        rest, (calls, steps) = iter(saved), self.names
        states = {index: next(rest) for index in calls}
        snapshots = {0: {name: value.detach() for name, value in self.registers.items()}}
        snapshots.update({step: {name: next(rest) for name in names} for step, names in steps.items()})
        back = _Backward(self, into, end, states)
        high = self.steps
        for used, (low, live) in enumerate(sorted(snapshots.items(), reverse=True)):
            back.reverse(
                low,
                high,
                {name: value.to(end.device) for name, value in live.items()},
                self.keep.slots - (len(snapshots) - 1 - used),
            )
            high = low
        compare(self.marks, back.seen)
        return back.cotangents


class _Backward:
    """One backward pass: cotangents carried from the end to the start, over parts of the run."""

    def __init__(self, tape: Segmented, into: Sensitivity, end: Tensor, states: dict[int, Tensor]) -> None:
        assert tape.keep is not None
        self.tape, self.into, self.states, self.leaf = tape, into, states, tape.keep.leaf
        self.cotangents: Registers = {"x": end}
        self.seen: dict[int, tuple[Call, Tensor]] = {}

    def program(self, low: int, high: int) -> Program:
        return self.tape.whole.steps(self.tape.begin + low, self.tape.begin + high)

    def reverse(self, low: int, high: int, live: Registers, slots: int) -> None:
        """Carry the cotangents from step `high` to step `low`, whose registers are `live`."""
        if high - low <= self.leaf:
            self._leaf(low, high, live)
        elif slots < 1:
            cut = high - self.leaf
            self._leaf(cut, high, self.run(low, cut, live))
            self.reverse(low, cut, live, 0)
        else:
            cut = low + split(high - low, slots)
            self.reverse(cut, high, self.run(low, cut, live), slots - 1)
            self.reverse(low, cut, live, slots)

    def run(self, low: int, high: int, live: Registers) -> Registers:
        """The registers at step `high`, without a graph."""
        rollout = self.tape.rollout

        def before(step: int, registers: Registers) -> None:
            if rollout.controls is not None:
                registers["x"] = registers["x"] + rollout.controls[step]

        def evaluate(call: Call, state: Tensor) -> Tensor:
            self.states[call.index] = state
            with self.tape.around[call.index - self.tape.first].restored(), torch.no_grad():
                return rollout.evaluate(call, state)

        with torch.no_grad():
            return rollout.execute(dict(live), evaluate, self.program(low, high), before)

    def _leaf(self, low: int, high: int, live: Registers) -> None:
        program = self.program(low, high)
        wanted = [call.index for call in program.calls()]
        if not all(index in self.states for index in wanted):
            self.states.clear()
            self.run(low, high, live)
        states = {index: self.states[index] for index in wanted}
        self.states.clear()

        def pull(call: Call, _: str, cotangent: Tensor) -> Tensor | None:
            replay = self.tape.replays.pop(call.index, None)
            if replay is not None:
                return self.into.back(call, replay, cotangent)
            with self.tape.around[call.index - self.tape.first].restored():
                replay = self.into.replay(call, states[call.index].to(cotangent.device))
                self.seen[call.index - self.tape.first] = call, mark(replay.out)
                return self.into.back(call, replay, cotangent)

        self.cotangents = transpose(program, self.cotangents, pull, self.into)
