"""Reversible: nothing is kept but the end; the backward pass steps back over the plan and differentiates as it goes."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...solvers import Call, Noise, Plan, combine, inversion
from ...solvers.linear_map import Mixer, Value
from ...solvers.loop import total, write
from ...solvers.program import BoundCombine, BoundEvaluate, Program
from ...solvers.wanted import Limit
from ..replay.live_call import LiveCall
from ..replay.rollout import Registers, Rollout
from ..replay.sensitivity import Sensitivity
from ..replay.tape import Tape
from ..replay.transpose import transpose
from .input import Input
from .taped import Taped


@dataclass(frozen=True)
class Reversible(Taped):
    """Memory of 2-3 states and one network call, whatever N: for plans that can be inverted
    (`ReversibleHeun`, `OBELM`, ...).

    The state is carried in float64 whatever the network's dtype, so that it comes back as it was: the
    gradient is that of `Direct` on the same plan to round-off. The prediction that a step is solved with is
    the one its VJP needs: 4 N F, as `Checkpoint`. A gradient of the gradient costs one more run, by regions,
    with the memory of N states.

    Args:
        anchor: keep the state every `anchor` steps too and restart from it: for plans that amplify round-off.
        tolerance: relative error of the reconstructed state, at an anchor or at the start, past which the
            backward pass raises RuntimeError.
        observe: called with that error after each backward pass, the largest one met.

    Source: Kidger et al. 2021, arXiv 2105.13493; McCallum and Foster 2024, arXiv 2410.11648.
    """

    anchor: int | None = None
    tolerance: Limit = 1e-3
    observe: Callable[[float], None] | None = None

    def __post_init__(self) -> None:
        if self.anchor is not None and self.anchor < 1:
            raise ValueError(f"Reversible: got anchor={self.anchor}, expected at least 1 step, or None")

    def check(self, plan: Plan, wanted: Collection[Input] = ()) -> None:
        inversion(plan)

    def tape(self, rollout: Rollout, registers: Registers) -> Tape:
        return _Retraceable(rollout, registers, self)

    def cost(self, plan: Plan) -> tuple[int, int]:
        return 2 * plan.nfe, plan.nfe


class _Kept(NamedTuple):
    """What stays between the passes: the carried registers at the end, and those of the steps with an anchor."""

    end: Registers
    anchors: dict[int, Registers]


class _Retraceable(Tape):
    """A run in float64 of which the end is kept, from where every state can be had again."""

    kept: _Kept

    def __init__(self, rollout: Rollout, registers: Registers, strategy: Reversible) -> None:
        super().__init__(rollout, registers)
        self.strategy, self.dtype = strategy, registers["x"].dtype
        how = inversion(rollout.program.plan)
        self.carried = how.carried
        self.undos = how.undos[-len(rollout.program.ops) :]  # a truncated program is the end of its plan

    def forward(self) -> Tensor:
        self.wide = self.rollout.program.widened(self.carried)
        return super().forward().to(self.dtype, copy=True)  # the caller's own: the end is kept

    def execute(self, registers: Registers) -> Registers:
        anchors: dict[int, Registers] = {}

        def before(step: int, live: Registers) -> None:
            every = self.strategy.anchor
            if every is not None and step % every == 0:
                anchors[step] = {name: live[name] for name in self.carried if name in live}
            self.rollout.before(step, live)

        wide = {name: value.double() for name, value in registers.items()}
        done = self.rollout.execute(wide, self.evaluate, self.wide, before)
        self.kept = _Kept({name: done[name] for name in self.carried}, anchors)
        return done

    def evaluate(self, call: Call, state: Tensor) -> Tensor:
        return super().evaluate(call, state.to(self.dtype)).double()

    def record(self, call: Call, state: Tensor, out: Tensor, live: LiveCall | None) -> None:
        """Nothing: the state comes back."""

    def pull(self, kept: _Kept, end: Tensor, into: Sensitivity) -> Registers:
        back = _Retrace(self, dict(kept.end), kept.anchors, into)
        entry = transpose(self.rollout.program, end, back.vjp, into, back.undo, back.opened)
        for name, value in self.registers.items():
            back.compare(name, value)
        if self.strategy.observe is not None:
            self.strategy.observe(back.error)
        return entry


class _Retrace:
    """The registers of one backward pass, on their way from the end back to the entry.

    Args:
        live: the registers at the end, changed from step to step.
        anchors: those of some steps as the forward pass saw them.
    """

    def __init__(
        self, tape: _Retraceable, live: Registers, anchors: dict[int, Registers], into: Sensitivity
    ) -> None:
        self.tape, self.live, self.anchors, self.into, self.error = tape, live, anchors, into, 0.0
        self.replays: dict[int, LiveCall] = {}  # made to step back, and not yet differentiated
        self.ops: Program = tape.wide

    def undo(self, k: int) -> None:
        """Put the registers back to where they stood before instruction k.

        What it read and is gone is computed `again`, from the instruction that wrote it; what it overwrote,
        the `target`, is what its equation is solved for.
        """
        undo = self.tape.undos[k]
        for back in undo.again:
            item = self.ops.ops[k - back]
            if isinstance(item, BoundCombine):
                self.live[item.out] = total(item, self.live, self.tape.rollout.noise)
            elif isinstance(item, BoundEvaluate):
                write(self.live, item.op.outs, self.replay(item.call, item.op.src).out.detach().double())
        item, value = self.ops.ops[k], None
        if isinstance(item, BoundCombine) and undo.target is not None:
            value = _overwritten(item, undo.target, self.live, self.tape.rollout.noise)
        # it is not there before k; kept, a thousand predictions would pile up
        for name in (item.out,) if isinstance(item, BoundCombine) else item.op.outs:
            self.live.pop(name, None)
        if value is not None and undo.target is not None:
            self.live[undo.target] = value

    def replay(self, call: Call, src: str) -> LiveCall:
        """The call once more; its graph waits for `vjp`, so that one call serves both."""
        state = self.live[src].to(self.tape.dtype)
        live = self.tape.replay(call, state)
        self.replays[call.index] = live
        return live

    def vjp(self, call: Call, src: str, cotangent: Tensor) -> Tensor | None:
        if call.index not in self.replays:
            self.replay(call, src)
        return self.into.vjp(call, self.replays.pop(call.index), cotangent)

    def opened(self, step: int) -> None:
        """Before step `step` opened its control was not there."""
        controls = self.tape.rollout.controls
        if controls is not None:
            self.live["x"] = self.live["x"] - controls[step]
        for name, value in self.anchors.get(step, {}).items():
            self.compare(name, value)
            self.live[name] = value

    def compare(self, name: str, value: Tensor) -> None:
        """Raise RuntimeError where the reconstruction of `name` has left `value`."""
        scale = value.double().norm().clamp_min(torch.finfo(torch.float32).tiny)
        error = float((self.live[name] - value).norm() / scale)
        self.error = max(self.error, error)
        if not error <= self.tape.strategy.tolerance:
            raise RuntimeError(
                f"Reversible: the reconstructed state {name!r} is off by {error:.2g} of its norm, expected "
                f"at most {self.tape.strategy.tolerance:g}: the plan amplifies round-off, or the network is "
                "not deterministic; set anchor=K, take another method or grid, or use Checkpoint()"
            )


def _overwritten(item: BoundCombine, target: str, registers: Registers, noise: Noise | None) -> Tensor:
    """What `item` overwrote in `target`: (out - sum of the other terms) / c."""
    whole: Value = next(c for c, name in item.terms if name == target)
    terms: list[tuple[Value, Tensor]] = [(1.0, registers[item.out])]
    terms += [(-c, registers[name]) for c, name in item.terms if name != target]
    for c, slot in item.noise:
        assert noise is not None
        terms.append((-c, noise(slot, registers[item.out])))
    rest = combine(terms)
    return whole.solve(rest) if isinstance(whole, Mixer) else rest.div_(whole)
