"""`steer`: sample while a guide corrects the data prediction, the velocity or the state of every step."""

import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ...adjoint.arguments import check_arguments
from ...adjoint.not_finite import blanked, lost, which_samples
from ...adjoint.watching import Callback, show
from ...solvers import (
    DATA,
    FLOW,
    Addressed,
    Call,
    Evaluate,
    GivenNoise,
    Model,
    Noise,
    Plan,
    Prediction,
    convert,
)
from ...solvers.kinds import check_kind
from ...solvers.loop import called, converted, execute, treated
from ...solvers.opening import carried, check_state
from ...solvers.per_step import at_step, check_steps
from ...solvers.program import Program, prepare
from .bookkeeping import CallRecord, Setting, Through
from .context import Context
from .guide import Guide, Hook
from .state_limits import StateLimits
from .step_law import StepLaw
from .validity import check_fields, check_hooks

OWN_STREAM = 2**63  # added to the stream of the plan's noise for what a guide draws


@dataclass(frozen=True, eq=False)
class Steered:
    """A guided sample and what it took.

    Attributes:
        sample: (B, ...).
        losses: (N, B) what the guide reported at the start of each step (its last repetition); nan where it
            reported nothing.
        nfe, vjps: model evaluations (of two network calls each under `ClassifierFree`) and VJPs; repetitions,
            lookahead and its replays included.
        seed: of the plan's noise, where it has one.
        memories: what each guide kept, by `id(guide)`; see `memory`.
    """

    sample: Tensor
    losses: Tensor
    nfe: int
    vjps: int
    seed: int | None
    memories: dict[int, dict[str, Any]]

    def memory(self, guide: object) -> dict[str, Any]:
        """What `guide` kept of this run."""
        return self.memories.get(id(guide), {})


def steer(
    denoiser: Model,
    plan: Plan,
    x: Tensor,
    guide: Guide,
    *,
    cond: Any = None,
    noise: Noise | Tensor | None = None,
    draws: Noise | None = None,
    through: Through = Through.NOTHING,
    callback: Callback | None = None,
    progress: bool = False,
    keep_finite: bool = False,
) -> Steered:
    """Run `plan` from x under `guide`.

    Args:
        denoiser, plan, x, cond, noise, callback, progress: as for `sample`. `ClassifierFree` works as the
            denoiser.
        guide: see `Guide`; guides add up, `guide.during(start, stop)` limits one to a part of the steps.
        draws: source of the guide's own randomness; default: that of `noise`, in a stream of its own.
        through: what autograd sees. By default nothing; STOPPED holds the corrections constant, FULL
            differentiates the guide too (second derivatives of the network).
        keep_finite: where some samples are not finite or have diverged, return NaN for these,
            warn, and go on with the others; where nothing is differentiated `through` the run.

    Returns:
        Steered. No network call is made twice: a guide's VJP uses the forward pass of the step.

    Raises:
        ValueError: before the first call, for a plan that cannot carry the guide's hooks and for anything
            that does not fit.
        FloatingPointError: a loss or a sample that is not finite, or one that has diverged: a hundred times
            as far from its prediction as noise and data account for (`state_limits.py`). Guide, step and samples are
            named.

    Cost: plan.nfe evaluations times the repeats, the guide's VJPs; memory one network call's activations
    where the guide differentiates (the whole run's unless `through` is NOTHING).
    """
    check_arguments(denoiser, plan, x, cond=cond, noise=noise, callback=callback)
    check_kind(
        "guide", guide, Guide, "a guide; a loss goes into one: DPS(loss), LGD(loss) or Lookahead(loss)"
    )
    check_kind(
        "through", through, Through, "Through.NOTHING, STOPPED or FULL; import it from pullback.guidance"
    )
    check_fields(guide)
    check_state(x, "steer")
    _check_noise(plan, noise)
    if keep_finite and through is not Through.NOTHING:
        raise ValueError(
            f"keep_finite: got through={through}, expected Through.NOTHING: what is NaN for one sample would be "
            "NaN in the gradient of all weights; leave the sample out of the batch"
        )
    scheduled, hooks = check_steps(cond, plan.steps), guide.hooks()
    check_hooks(plan, denoiser, hooks)
    guide.check(denoiser, plan, x)
    x = carried(x)
    source = GivenNoise(noise) if isinstance(noise, Tensor) else noise
    if plan.slots:
        assert source is not None
        source.check(plan.slots, x)
    if draws is None and isinstance(source, Addressed):
        draws = Addressed(source.seed, source.samples, (source.stream + OWN_STREAM) % 2**64, source.on_cpu)
    program, setting = prepare(plan, denoiser, x), Setting(denoiser, plan, cond, draws, through)
    run = _Run(
        setting, program, _asked(plan), scheduled, guide, hooks, source, StateLimits(plan, guide, keep_finite)
    )
    registers, rows = {"x": x if through is not Through.NOTHING else x.detach()}, []
    with torch.no_grad() if through is Through.NOTHING else nullcontext():
        for step in tqdm(range(plan.steps), disable=not progress):
            if callback is not None:
                show(callback, step, plan.times[step], registers["x"])
            registers, loss = run.step(step, registers)
            rows.append(x.new_full((len(x),), torch.nan) if loss is None else loss)
            if not keep_finite or bool(lost(registers["x"]).all()):
                _finite(step, plan, guide, loss, registers["x"])
    x = registers["x"]
    if callback is not None:
        show(callback, plan.steps, plan.times[-1], x)
    if keep_finite and bool((gone := lost(x)).any()):
        warnings.warn(
            f"steer: not finite for {which_samples(gone)}; these are NaN", RuntimeWarning, stacklevel=2
        )
        x = blanked(x, gone)
    return Steered(
        sample=x,
        losses=torch.stack(rows),
        nfe=setting.counter.nfe,
        vjps=setting.counter.vjps,
        seed=source.seed if isinstance(source, Addressed) else None,
        memories=setting.memories,
    )


@dataclass(frozen=True)
class _Asked:
    """One network call as the plan has it, and whether x_t is noisy there; where it is not, guides leave it alone."""

    want: Prediction
    time: Tensor
    noisy: bool


@dataclass(frozen=True, eq=False)
class _Run:
    """A plan under a guide, taken step by step."""

    setting: Setting
    program: Program
    calls: list[_Asked]
    scheduled: bool
    guide: Guide
    hooks: frozenset[Hook]
    noise: Noise | None
    limits: StateLimits

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

    def __init__(self, run: _Run, step: int, number: int, start: dict[str, Tensor]) -> None:
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


def _asked(plan: Plan) -> list[_Asked]:
    """The network calls of `plan` in order."""
    calls = [op for op in plan.instructions if isinstance(op, Evaluate)]
    times = torch.tensor([op.t for op in calls], dtype=torch.float64)  # (K,), or (K, B) of a stacked plan
    noisy = (plan.process.sigma(times) > 0).reshape(len(calls), -1).all(1)
    return [_Asked(op.want, times[k], bool(noisy[k])) for k, op in enumerate(calls)]


def _check_noise(plan: Plan, noise: Noise | Tensor | None) -> None:
    if plan.slots and noise is None:
        raise ValueError(
            f"noise: got None, expected a source with {plan.slots} slots for {plan.name}; pass "
            "noise=Addressed(seed)"
        )


def _finite(step: int, plan: Plan, guide: Guide, loss: Tensor | None, x: Tensor) -> None:
    for what, value in (("loss", loss), ("state", x)):
        if value is not None and not bool(torch.isfinite(value.detach()).all()):
            raise FloatingPointError(
                f"{what}: not finite at step {step} (t={plan.times[step]}) under {guide.name}: got NaN or infinity for "
                f"{which_samples(lost(value))}, expected finite values; lower the guide's scale, choose a policy that "
                "does not overshoot such as Damped(Bayes()), check the network there, or let the others go on with "
                "keep_finite=True"
            )
