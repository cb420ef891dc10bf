"""GuidedRun: a plan under a guide, taken step by step."""

from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ...adjoint.strategies.gradient import Around
from ...solvers import DATA, FLOW, Call, Evaluate, Noise, Plan, Prediction, convert
from ...solvers.loop import called, converted, execute, treated
from ...solvers.per_step import at_step
from ...solvers.program import Program
from .bookkeeping import CallRecord, Counter, Setting, Through
from .context import Context
from .guide import Guide, Hook
from .state_limits import StateLimits
from .step_law import StepLaw


@dataclass(frozen=True)
class GuidedCall:
    """One network call as the plan has it, and whether x_t is noisy there; where it is not, guides leave it alone."""

    want: Prediction
    time: Tensor
    noisy: bool


@dataclass(frozen=True, eq=False)
class GuidedRun:
    """A plan under a guide, taken step by step.

    Attributes:
        around: how a step is made where the run is differentiated.
    """

    setting: Setting
    program: Program
    calls: list[GuidedCall]
    scheduled: bool
    guide: Guide
    hooks: frozenset[Hook]
    noise: Noise | None
    limits: StateLimits
    around: Around | None = None

    def taken(self, k: int, registers: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor | None]:
        """`step`, made as the strategy wants it, which may be once more in the backward pass."""
        if self.around is None:
            return self.step(k, registers)
        x, rest = registers["x"], {name: value for name, value in registers.items() if name != "x"}
        # a replay finds what guides remembered when the step began, and leaves what they remember now alone. Nothing
        # of this run may hang on `step`, which its own graph holds: such a cycle is never collected
        remembered = _copied(self.setting.memories)
        replay = replace(self, setting=replace(self.setting, memories={}, counter=Counter()))
        first, found = [self], list[tuple[dict[str, Tensor], Tensor | None]]()

        def step(x: Tensor) -> Tensor:
            if first:
                after = first.pop().step(k, {**rest, "x": x})
                found.append(after)
                return after[0]["x"]
            replay.setting.memories.update(_copied(remembered))
            after = replay.step(k, {**rest, "x": x})
            replay.setting.memories.clear()
            return after[0]["x"]

        self.around(step, f"guided step {k}", x)
        return found.pop()

    def step(self, k: int, registers: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor | None]:
        """The registers after step k, taken as often as the guide wants, and the loss it reported."""
        attempt = _Attempt(self, k, 0, registers)
        after = attempt.take()
        repeats = self.guide.repeats(k, self.setting.plan.steps) if Hook.REPEAT in self.hooks else 1
        for number in range(1, repeats):
            if (ctx := attempt.ctx) is None:  # a step that began without noise has none to travel back to
                break
            back = ctx.renoise(after["x"], ctx.next_time, ctx.time)
            attempt = _Attempt(self, k, number, {**registers, "x": back})
            after = attempt.take()
        if attempt.record is not None:
            after["x"] = self.limits.within(k, after["x"], attempt.record.live.detach())
        if attempt.ctx is not None and Hook.ACCEPT in self.hooks:
            ancestors = self.guide.accept(attempt.ctx, after["x"])
            if ancestors is not None:
                after = {name: value[ancestors] for name, value in after.items()}
        return after, attempt.loss

    def carried(self, value: Tensor) -> Tensor:
        """`value` as the run carries it on: without a graph where nothing is differentiated."""
        return value.detach() if self.setting.through is Through.NOTHING else value

    def held(self, natural: Tensor, value: Tensor) -> Tensor:
        """`value`, with the gradient of the uncorrected `natural` where corrections are held constant."""
        if self.setting.through is not Through.STOPPED or value is natural:
            return value
        return natural + (value - natural).detach()

    def convert(self, value: Tensor, x: Tensor, have: Prediction, want: Prediction, time: Tensor) -> Tensor:
        """A prediction of kind `have` at x_t as one of kind `want`."""
        return value if have == want else convert(value, x, have, want, self.setting.plan.process, time)


class _Attempt:
    """One attempt at one step: its network calls under the guide, and what the first of them left."""

    def __init__(self, run: GuidedRun, step: int, number: int, start: dict[str, Tensor]) -> None:
        self.run, self.step, self.number = run, step, number
        self.law = StepLaw(run.program.steps(step, step + 1), start)
        self.graph = run.guide.graph(step, run.setting.plan.steps)
        self.ctx: Context | None = None
        self.record: CallRecord | None = None

    @property
    def loss(self) -> Tensor | None:
        """What the guide reported at the first call."""
        return None if self.record is None else self.record.loss

    def take(self) -> dict[str, Tensor]:
        """The registers after the step, x as the guide leaves it."""
        noise = self.run.noise if self.number == 0 else _Fresh(self)
        registers = execute(self.law.program, dict(self.law.registers), self.evaluate, noise)
        if self.ctx is not None and Hook.STATE in self.run.hooks:
            x = registers["x"]
            registers["x"] = self.run.held(x, self.run.guide.state(self.ctx, x))
        return registers

    def evaluate(self, call: Call, x: Tensor) -> Tensor:
        """The prediction that the plan asks for at x, as the guide leaves it: one network call."""
        run, s, asked = self.run, self.run.setting, self.run.calls[call.index]
        graph = self.graph and asked.noisy
        if graph and not x.requires_grad:
            x = x.detach().requires_grad_()
        s.counter.nfe += 1
        with torch.enable_grad() if graph else nullcontext():
            raw = called(s.model, call, x, at_step(s.cond, call.step) if run.scheduled else s.cond)
            out = converted(call, x, raw)
            live = run.convert(raw, x, s.model.prediction, DATA, asked.time) if asked.noisy else None
        out = run.carried(out)
        self.law.plain[call.index] = self.law.guided[call.index] = out
        if live is not None:
            out = run.carried(self.corrected(call.index, x, live, out))
            self.law.guided[call.index] = out
        if call.op is not None and call.op.then is not None:  # the guide corrects what the function is given
            self.law.plain[call.index] = treated(call, self.law.plain[call.index])
            self.law.guided[call.index] = out = treated(call, out)
        return out

    def corrected(self, index: int, x: Tensor, live: Tensor, out: Tensor) -> Tensor:
        """What the guide makes of D(x_t) and of the velocity, as the prediction that the plan asks for; `out`
        where it leaves them as they are.
        """
        run, guide, asked = self.run, self.run.guide, self.run.calls[index]
        record = CallRecord(run.setting, self.law, index, asked.want, live)
        ctx = Context(self.step, self.number, asked.time, x, record)
        if self.ctx is None:
            self.ctx, self.record = ctx, record
        data = ctx.data
        kind, natural, value = DATA, live, guide.data(ctx, data)
        if Hook.VELOCITY in run.hooks:
            velocity = run.convert(value, x, DATA, FLOW, asked.time)
            pushed = guide.velocity(ctx, velocity)
            if pushed is not velocity:
                kind, natural, value = FLOW, run.convert(live, x, DATA, FLOW, asked.time), pushed
        if value is data:
            return out
        return run.convert(run.held(natural, value), x, kind, asked.want, asked.time)


class _Fresh(Noise):
    """The plan's noise in a repetition: drawn from the guide's stream, for its own slots have been used."""

    def __init__(self, attempt: _Attempt) -> None:
        self.attempt = attempt

    def check(self, slots: int, like: Tensor) -> None: ...

    def __call__(self, slot: int, like: Tensor) -> Tensor:
        assert self.attempt.ctx is not None  # a step that is repeated begins with its network call
        return self.attempt.ctx.draw()


def asked_calls(plan: Plan) -> list[GuidedCall]:
    """The network calls of `plan` in order."""
    calls = [op for op in plan.instructions if isinstance(op, Evaluate)]
    times = torch.tensor([op.t for op in calls], dtype=torch.float64)  # (K,), or (K, B) of a stacked plan
    noisy = (plan.process.sigma(times) > 0).reshape(len(calls), -1).all(1)
    return [GuidedCall(op.want, times[k], bool(noisy[k])) for k, op in enumerate(calls)]


def _copied(memories: dict[int, dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """The same tensors and objects in containers of their own."""
    return {owner: tree_map(lambda leaf: leaf, kept) for owner, kept in memories.items()}
