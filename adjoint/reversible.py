"""Reversible: nothing is kept but the end; the backward pass steps back over the plan and differentiates as it goes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..solvers import Call, Noise, Plan, combine, inversion
from ..solvers.loop import total
from ..solvers.program import BoundCombine, BoundEvaluate, Program, Value
from .gradient import Gradient, Registers, refuse
from .rollout import Rollout
from .sensitivity import Replay, Sensitivity
from .tape import Captured, Tape, differentiable
from .transpose import transpose


@dataclass(frozen=True)
class Reversible(Gradient):
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
    tolerance: float = 1e-3
    observe: Callable[[float], None] | None = None

    def __post_init__(self) -> None:
        if self.anchor is not None and self.anchor < 1:
            raise ValueError(f"Reversible: got anchor={self.anchor}, expected at least 1 step, or None")

    def run(self, rollout: Rollout, registers: Registers) -> Registers:
        refuse(self, rollout)
        try:
            return {"x": differentiable(_Backwards(rollout, registers, self))}
        except Captured as captured:
            raise ValueError(f"{self}: got {captured}; pass it in cond, or use Checkpoint()") from None

    def cost(self, plan: Plan) -> tuple[int, int]:
        return 2 * plan.nfe, plan.nfe


class _Backwards(Tape):
    def __init__(self, rollout: Rollout, registers: Registers, strategy: Reversible) -> None:
        super().__init__(rollout, registers)
        self.strategy, self.dtype = strategy, registers["x"].dtype
        how = inversion(rollout.program.plan)
        self.carried, self.undos = (
            how.carried,
            how.undos[-len(rollout.program.ops) :],
        )  # a truncated program is the end of its plan
        self.anchors: dict[int, Registers] = {}
        self.end: Registers = {}

    def forward(self) -> Tensor:
        self.wide = self.rollout.program.widened(self.carried)
        return super().forward().to(self.dtype)

    def execute(self, registers: Registers) -> Registers:
        def before(step: int, live: Registers) -> None:
            every = self.strategy.anchor
            if every is not None and step % every == 0:
                self.anchors[step] = {name: live[name] for name in self.carried if name in live}
            self.rollout.before(step, live)

        wide = {name: value.double() for name, value in registers.items()}
        done = self.rollout.execute(wide, self._evaluate, self.wide, before)
        self.end = {name: done[name] for name in self.carried}
        return done

    def _evaluate(self, call: Call, state: Tensor) -> Tensor:
        return super()._evaluate(call, state.to(self.dtype)).double()

    def kept(self) -> list[Tensor]:
        held = [*self.end.values(), *(value for anchor in self.anchors.values() for value in anchor.values())]
        self.end, self.anchors = (
            dict.fromkeys(self.end),
            {k: dict.fromkeys(v) for k, v in self.anchors.items()},
        )  # type: ignore
        return held

    def pull(self, saved: Sequence[Tensor], end: Tensor, into: Sensitivity) -> Registers:
        rest = iter(saved)
        live = {name: next(rest) for name in self.end}
        anchors = {step: {name: next(rest) for name in names} for step, names in self.anchors.items()}
        back = _Retrace(self, live, anchors, into)
        entry = transpose(self.rollout.program, end, back.vjp, into, back.undo, back.opened)
        for name, value in self.registers.items():
            back.compare(name, value)
        if self.strategy.observe is not None:
            self.strategy.observe(back.error)
        return entry


class _Retrace:
    """The registers of one backward pass."""

    def __init__(
        self, tape: _Backwards, live: Registers, anchors: dict[int, Registers], into: Sensitivity
    ) -> None:
        self.tape, self.live, self.anchors, self.into, self.error = tape, live, anchors, into, 0.0
        self.replays: dict[int, Replay] = {}
        self.ops: Program = tape.wide

    def undo(self, k: int) -> None:
        """Put the registers back to where they stood before instruction k."""
        undo = self.tape.undos[k]
        for back in undo.again:
            item = self.ops.ops[k - back]
            if isinstance(item, BoundCombine):
                self.live[item.out] = total(item, self.live, self.tape.rollout.noise)
            elif isinstance(item, BoundEvaluate):
                self.live[item.op.outs[0]] = self.replay(item.call, item.op.src).out.detach().double()
        item, value = self.ops.ops[k], None
        if isinstance(item, BoundCombine) and undo.target is not None:
            value = _overwritten(item, undo.target, self.live, self.tape.rollout.noise)
        # it is not there before k; kept, a thousand predictions would pile up
        self.live.pop(item.out if isinstance(item, BoundCombine) else item.op.outs[0], None)
        if value is not None and undo.target is not None:
            self.live[undo.target] = value

    def replay(self, call: Call, src: str) -> Replay:
        with self.tape.around[call.index - self.tape.first].restored():
            replay = self.into.replay(call, self.live[src].to(self.tape.dtype))
        self.replays[call.index] = replay
        return replay

    def vjp(self, call: Call, src: str, cotangent: Tensor) -> Tensor | None:
        replay = self.replays.pop(call.index, None) or self.replay(call, src)
        self.replays.pop(call.index, None)
        return self.into.back(call, replay, cotangent)

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
    return combine(terms).div_(whole)
