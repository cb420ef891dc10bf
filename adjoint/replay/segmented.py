"""Segmented: a run that keeps snapshots of some steps, and comes back to the states between them by running again."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ...solvers import Call
from ...solvers.program import Program
from .live_call import LiveCall, live_call
from .rollout import Registers, Rollout
from .saved import Saved
from .schedule import Keep, split
from .sensitivity import Sensitivity
from .tape import Tape
from .transpose import transpose

Choice = Callable[[int, int, int, int, int], Keep]  # the first five arguments of `choose`


class _Kept(NamedTuple):
    """What stays between the passes: states by call, where no snapshot follows; registers by the step they open."""

    states: dict[int, Tensor]
    snapshots: dict[int, Registers]


class Segmented(Tape):
    """The tape of Checkpoint(memory_budget=..., recursive=...). Steps are counted from the first of the run.

    Args:
        choice: what to keep, asked once the first call has shown how much its activations take.
    """

    def __init__(self, rollout: Rollout, registers: Registers, offload: bool, choice: Choice) -> None:
        super().__init__(rollout, registers)
        self.offload, self.choice = offload, choice
        program, ops = rollout.program, rollout.program.ops
        self.whole = program.whole()
        self.begin = ops[0].step
        self.steps = ops[-1].step - self.begin + 1
        self.count = sum(1 for _ in program.calls())
        self.keep: Keep | None = None
        self.kept: _Kept = _Kept({}, {})
        self.live: dict[int, LiveCall] = {}
        self.held = 0

    def execute(self, registers: Registers) -> Registers:
        def before(step: int, live: Registers) -> None:
            step -= self.begin
            self.held = sum(value.nbytes for value in live.values())
            if self.keep is not None and step in self.keep.snapshots:
                self.kept.snapshots[step] = {name: self._put(value) for name, value in live.items()}
            self.rollout.before(step + self.begin, live)

        return self.rollout.execute(registers, self.evaluate, before=before)

    def look_first(self, call: Call, state: Tensor) -> LiveCall:
        saved = Saved()
        with saved:
            live = super().look_first(call, state)
        activation = saved.bytes([state, *self.inputs.every().values()])
        size, held = (0, 0) if self.offload else (state.nbytes, max(self.held, state.nbytes))
        self.keep = self.choice(self.count, self.steps, size, held, activation)
        return live

    def keeps(self, call: Call) -> bool:
        if self.keep is None:  # the first call, which the choice waits for
            return False
        return call.index - self.first >= self.count - self.keep.activations

    def record(self, call: Call, state: Tensor, out: Tensor, live: LiveCall | None) -> None:
        assert self.keep is not None
        self.marks.append(self.projection(out))
        if live is not None:
            self.live[call.index] = live
        last = (0, *self.keep.snapshots)[-1]
        if call.step - self.begin >= last and self.steps - last <= self.keep.leaf:
            self.kept.states[call.index] = self._put(state)

    def _put(self, value: Tensor) -> Tensor:
        return value.to("cpu") if self.offload else value

    def pull(self, kept: _Kept, end: Tensor, into: Sensitivity) -> Registers:
        assert self.keep is not None
        entry = {name: value.detach() for name, value in self.registers.items()}
        parts = sorted({0: entry, **kept.snapshots}.items())
        back, high = _Backward(self, self.keep.leaf, dict(kept.states), end, into), self.steps
        while parts:
            low, live = parts.pop()
            live = {name: value.to(end.device) for name, value in live.items()}
            back.reverse(low, high, live, self.keep.slots - len(parts))
            high = low
        back.replays.compare()
        return back.cotangents


class _Backward:
    """One backward pass: the cotangents, carried from the end to the start over one part of the run after the other.

    Args:
        leaf: most steps whose states may be held.
        states: of calls, where they are known: those of the last leaf at first.
    """

    def __init__(
        self, tape: Segmented, leaf: int, states: dict[int, Tensor], end: Tensor, into: Sensitivity
    ) -> None:
        self.tape, self.leaf, self.states, self.into = tape, leaf, states, into
        self.cotangents: Registers = {"x": end}
        self.replays = tape.replays()

    def program(self, low: int, high: int) -> Program:
        return self.tape.whole.steps(self.tape.begin + low, self.tape.begin + high)

    def reverse(self, low: int, high: int, live: Registers, slots: int) -> None:
        """Carry the cotangents from step `high` to step `low`, whose registers are `live`.

        `slots`: how many snapshots more may be held meanwhile.
        """
        if high - low <= self.leaf:
            self.reverse_leaf(low, high, live)
        elif slots < 1:
            cut = high - self.leaf
            self.reverse_leaf(cut, high, self.run(low, cut, live))
            self.reverse(low, cut, live, 0)
        else:
            cut = low + split(high - low, slots)
            self.reverse(cut, high, self.run(low, cut, live), slots - 1)
            self.reverse(low, cut, live, slots)

    def run(self, low: int, high: int, live: Registers, states: dict[int, Tensor] | None = None) -> Registers:
        """The registers at step `high`, without a graph; `states` receives those of the calls on the way."""
        rollout = self.tape.rollout

        def before(step: int, registers: Registers) -> None:
            if rollout.controls is not None:
                registers["x"] = registers["x"] + rollout.controls[step]

        def evaluate(call: Call, state: Tensor) -> Tensor:
            if states is not None:
                states[call.index] = state
            # with a graph, for a network that keeps something from call to call: see Tape
            with self.tape.calls.of(call).restored():
                return live_call(rollout, call, state).out.detach()

        with torch.no_grad():
            return rollout.execute(dict(live), evaluate, self.program(low, high), before)

    def reverse_leaf(self, low: int, high: int, live: Registers) -> None:
        """As `reverse`, with the states of all calls between the two at once."""
        program = self.program(low, high)
        wanted = [call.index for call in program.calls()]
        if not all(index in self.states for index in wanted):
            self.states.clear()
            self.run(low, high, live, self.states)
        states = {index: self.states[index] for index in wanted}
        self.states.clear()

        def vjp(call: Call, _: str, cotangent: Tensor) -> Tensor | None:
            kept = self.tape.live.pop(call.index, None)
            if kept is not None:
                return self.into.vjp(call, kept, cotangent)
            state = states[call.index].to(cotangent.device)
            live = self.tape.replay(call, state)
            self.replays.note(call, live.out)
            return self.into.vjp(call, live, cotangent)

        self.cotangents = transpose(program, self.cotangents, vjp, self.into)
