"""Recorded: the tape that keeps the state at every network call."""

from collections.abc import Sequence

from torch import Tensor

from ...solvers import Call
from .live_call import LiveCall
from .rollout import Registers, Rollout
from .sensitivity import Sensitivity
from .tape import Tape
from .transpose import transpose


class Recorded(Tape):
    """Keeps the state at every network call, on the CPU if `offload`."""

    def __init__(self, rollout: Rollout, registers: Registers, offload: bool) -> None:
        super().__init__(rollout, registers)
        self.offload = offload
        self.kept: list[Tensor] = []

    def record(self, call: Call, state: Tensor, out: Tensor, live: LiveCall | None) -> None:
        self.kept.append(state.to("cpu") if self.offload else state)
        self.marks.append(self.projection(out))

    def pull(self, kept: Sequence[Tensor], end: Tensor, into: Sensitivity) -> Registers:
        replays = self.replays()

        def vjp(call: Call, _: str, cotangent: Tensor) -> Tensor | None:
            live = self.replay(call, kept[call.index - self.first].to(end.device))
            replays.note(call, live.out)
            return into.vjp(call, live, cotangent)

        entry = transpose(self.rollout.program, end, vjp, into)
        replays.compare()
        return entry
