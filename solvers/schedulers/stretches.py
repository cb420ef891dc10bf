"""Stretches: a plan cut at its network calls, one for each turn of a pipeline's loop."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..instructions import Combine, Evaluate
from ..loop import converted, total, treated, write
from ..noise import Noise
from ..opening import carried
from ..plan import Plan
from ..prediction import DATA, Prediction, conversion
from ..process import as_time
from ..program import BoundApply, BoundCombine, Call
from .found import SchedulerPlan

Between = BoundCombine | BoundApply
HALVES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Stretch:
    """One network call of a plan, and the instructions from it to the next.

    Attributes:
        call: op.want = a x + b F of F, the network's own answer to c_in x.
        label: what the network is told.
        level: the process's time there.
        data: (a, b) of the data prediction, None where F does not determine it.
        rest: what follows up to the next call.
        shown: the register that the next call takes; "x" after the last.
        kept: whether what the call gave is read after the next one too.
    """

    call: Call
    c_in: float
    label: float
    level: float
    data: tuple[float, float] | None
    rest: tuple[Between, ...]
    shown: str
    kept: bool


@dataclass(frozen=True)
class Stretches:
    """A plan in pieces: `opening` goes before the first call."""

    plan: Plan
    opening: tuple[Between, ...]
    calls: tuple[Stretch, ...]

    @classmethod
    def of(cls, plan: Plan, found: SchedulerPlan) -> "Stretches":
        """`plan` around the network that `found` was found with.

        Raises:
            ValueError: a plan that a loop around one state and one label a call cannot run.
        """
        _check(plan)
        gaps: list[list[Between]] = [[]]
        calls: list[Call] = []
        for step in range(plan.steps):
            span = plan.span(step, step + 1)
            for op, dead in zip(plan.instructions[span], plan.last_uses[span], strict=True):
                if isinstance(op, Evaluate):
                    calls.append(Call(len(calls), step, as_time(op.t), 0.0, 1.0, op))
                    gaps.append([])
                elif isinstance(op, Combine):
                    # coefficients are numbers (`_check`), ready as they stand
                    gaps[-1].append(BoundCombine(op.out, op.terms, op.noise, dead, step))  # type: ignore[arg-type]
                else:
                    gaps[-1].append(BoundApply(op, dead, step))
        sources = [call.op.src for call in calls if call.op is not None]
        _check_opening(plan, gaps[0], sources[0])
        made = [
            _stretch(call, found, gap, shown)
            for call, gap, shown in zip(calls, gaps[1:], [*sources[1:], "x"], strict=True)
        ]
        return cls(plan, tuple(gaps[0]), tuple(made))


@dataclass(eq=False)
class HeldRun:
    """A run, one stretch at a time: what it remembers between them. Registers are float32 at least."""

    opening: tuple[Between, ...]
    noise: Noise | None
    registers: dict[str, Tensor] | None = None

    def take(
        self, stretch: Stretch, answer: Tensor, sample: Tensor, with_data: bool
    ) -> tuple[Tensor, Tensor | None]:
        """(the state for the next call, the data prediction if it is wanted) after the network's answer at `sample`."""
        call, op, x = stretch.call, stretch.call.op, carried(sample)
        assert op is not None
        if self.registers is None:
            self.registers = {"x": x}
            self._go(self.opening)
        elif sample.dtype in HALVES:
            # the pipeline was shown a rounded state: what it changed there is added to the one before rounding
            held = self.registers[op.src]
            x = held + (x - held.to(sample.dtype).float())
        self.registers[op.src] = x
        answer = answer.to(x)
        out = treated(call, converted(call, x, answer))
        # a compiled network writes its next answer where this one lies
        write(self.registers, op.outs, out.clone() if stretch.kept and out is answer else out)
        self._go(stretch.rest)
        data = None
        if with_data and stretch.data is not None:
            data = x * stretch.data[0] + answer * stretch.data[1]
        return self.registers[stretch.shown].to(sample.dtype), data

    def _go(self, items: tuple[Between, ...]) -> None:
        registers = self.registers
        assert registers is not None
        for item in items:
            if isinstance(item, BoundCombine):
                registers[item.out] = total(item, registers, self.noise)
            else:
                write(registers, item.op.outs, item.op.fn(*[registers[name] for name in item.op.srcs]))
            for name in item.dead:
                registers.pop(name, None)


def _stretch(call: Call, found: SchedulerPlan, rest: list[Between], shown: str) -> Stretch:
    assert call.op is not None
    label, level = found.label.both(call.t)
    c_in, skip, gain = 1.0, 0.0, 1.0
    if found.scales is not None:
        c_in = float(found.scales.c_in(level))
        skip, gain = (float(each) for each in found.scales.outputs(level))

    def of_answer(want: Prediction) -> tuple[float, float]:
        """(a, b) with want = a x + b F: the prediction is skip x + gain F."""
        a, b = (float(each) for each in conversion(found.prediction, want, found.process, call.t))
        return a + b * skip, b * gain

    a, b = of_answer(call.op.want)
    try:
        data = of_answer(DATA)
    except ValueError:  # eps at alpha = 0
        data = None
    kept = not any(call.op.outs[0] in item.dead for item in rest)
    return Stretch(call._replace(a=a, b=b), c_in, float(label), float(call.t), data, tuple(rest), shown, kept)


def _check(plan: Plan) -> None:
    if plan.entry != ("x",) or plan.exit != ("x",) or not plan.nfe:
        raise ValueError(
            f"as_scheduler: got {plan.name} of {plan.nfe} network calls from {', '.join(plan.entry)} to "
            f"{', '.join(plan.exit)}, expected a sampler from a state to a state; run it by pullback.adjoint.sample"
        )
    if plan.batch is not None:
        raise ValueError(
            f"as_scheduler: got a grid for each of {plan.batch} samples, expected one for all, since a pipeline has "
            "one timestep for them; pass times (N+1,)"
        )
    plan.check_numbers("as_scheduler")
    if any(isinstance(op, Evaluate) and op.variance for op in plan.instructions):
        raise ValueError(
            f"as_scheduler: got {plan.name}, which asks the network for a variance, expected the prediction alone; "
            "take PosteriorVariance.SMALL or LARGE"
        )


def _check_opening(plan: Plan, before: list[Between], first: str) -> None:
    """Raise ValueError where the first call is not at the state that the pipeline starts from: followed on x = 1."""
    unknown = torch.full((1, 1), math.nan, dtype=torch.float64)
    registers = {"x": torch.ones_like(unknown)}
    for item in before:
        if isinstance(item, BoundCombine):
            registers[item.out] = unknown if item.noise else total(item, registers, None)
        else:
            registers.update(dict.fromkeys(item.op.outs, unknown))
    if float(registers[first]) != 1.0:
        raise ValueError(
            f"as_scheduler: got {plan.name}, which changes the state before its first network call, expected a call at "
            "the state that the pipeline starts from; where that is churn, keep it from the first noise level (s_max)"
        )
