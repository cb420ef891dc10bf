"""`steer`: sample while a guide corrects the data prediction, the velocity or the state of every step."""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only
from tqdm.auto import tqdm

from ...adjoint import PerStep
from ...adjoint.cond import at_step
from ...adjoint.sampling import Callback
from ...solvers import DATA, FLOW, Addressed, Call, Evaluate, GivenNoise, Model, Noise, Plan, combine
from ...solvers.broadcast import per_sample
from ...solvers.loop import execute
from ...solvers.prediction import conversion
from ...solvers.process import as_time
from ...solvers.program import Program, prepare
from .context import Context, Setting, Through
from .guide import Guide, Hook
from .step_law import Opened
from .validity import opens, refuse_misfits

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
) -> Steered:
    """Run `plan` from x under `guide`.

    Args:
        denoiser, plan, x, cond, noise, callback, progress: as for `sample`. `ClassifierFree` works as the
            denoiser.
        guide: see `Guide`; guides add up, `guide.during(start, stop)` limits one to a part of the steps.
        draws: source of the guide's own randomness; default: that of `noise`, in a stream of its own.
        through: what autograd sees. By default nothing; STOPPED holds the corrections constant, FULL
            differentiates the guide too (second derivatives of the network).

    Returns:
        Steered. No network call is made twice: a guide's VJP uses the forward pass of the step.

    Raises:
        ValueError: before the first call, for a plan that cannot carry the guide's hooks and for anything
            that does not fit.
        FloatingPointError: a loss or a sample that is not finite; the step is named.

    Cost: plan.nfe evaluations times the repeats, the guide's VJPs; memory one network call's activations
    where the guide differentiates (the whole run's unless `through` is NOTHING).
    """
    _check(plan, x, cond, noise)
    hooks = guide.hooks()
    refuse_misfits(plan, denoiser, hooks)
    guide.check(denoiser, plan, x)
    x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    source = GivenNoise(noise) if isinstance(noise, Tensor) else noise
    if plan.slots:
        assert source is not None
        source.check(plan.slots, x)
    if draws is None and isinstance(source, Addressed):
        draws = Addressed(source.seed, source.samples, (source.stream + OWN_STREAM) % 2**64, source.on_cpu)
    program = prepare(plan, denoiser, x)
    run = _Run(
        Setting(denoiser, plan, cond, draws, through),
        program,
        guide,
        hooks,
        source,
        [op for op in plan.instructions if isinstance(op, Evaluate)],
    )
    registers, rows = {"x": x if through is not Through.NOTHING else x.detach()}, []
    with torch.no_grad() if through is Through.NOTHING else nullcontext():
        for step in tqdm(range(plan.steps), disable=not progress):
            if callback is not None:
                callback(step, plan.times[step], registers["x"].detach())
            registers, loss = run.step(step, registers)
            rows.append(x.new_full((len(x),), torch.nan) if loss is None else loss)
            _finite(step, plan, loss, registers["x"])
    if callback is not None:
        callback(plan.steps, plan.times[-1], registers["x"].detach())
    counter = run.setting.counter
    seed = source.seed if isinstance(source, Addressed) else None
    return Steered(registers["x"], torch.stack(rows), counter.nfe, counter.vjps, seed, run.setting.memories)


@dataclass(frozen=True, eq=False)
class _Run:
    setting: Setting
    program: Program
    guide: Guide
    hooks: frozenset[Hook]
    noise: Noise | None
    calls: list[Evaluate]

    def step(self, k: int, registers: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor | None]:
        """The registers after step k, repeated as often as the guide wants, and the loss it reported."""
        plan, guide = self.setting.plan, self.guide
        repeats, start = guide.repeats(k, plan.steps) if Hook.REPEAT in self.hooks else 1, registers
        ctx = None
        for attempt in range(repeats):
            opened = Opened(self.program.steps(k, k + 1), start)
            seen: list[Context] = []
            noise = self.noise if attempt == 0 else _Fresh(seen)
            registers = execute(
                opened.program,
                dict(start),
                lambda call, state: self.evaluate(call, state, opened, seen, attempt),  # noqa: B023
                noise,
            )
            ctx = seen[0] if seen else None
            if ctx is None or not opens(plan, k):
                break
            if Hook.STATE in self.hooks:
                registers["x"] = self.stopped(registers["x"], guide.state(ctx, registers["x"]))
            if attempt + 1 < repeats:
                start = {**start, "x": ctx.renoise(registers["x"], ctx.next_time, ctx.time)}
        if ctx is not None and Hook.ACCEPT in self.hooks:
            index = guide.accept(ctx, registers["x"])
            if index is not None:
                registers = {name: value[index] for name, value in registers.items()}
        return registers, None if ctx is None else ctx.loss

    def evaluate(self, call: Call, x: Tensor, opened: Opened, seen: list[Context], attempt: int) -> Tensor:
        """One network call, its prediction corrected by the guide."""
        s, step = self.setting, call.step
        op = self.calls[call.index]
        time = as_time(op.t)
        s.counter.nfe += 1
        graph = self.guide.graph(step, s.plan.steps)
        noisy = bool((s.plan.process.sigma(time) > 0).all())
        if graph and noisy and not x.requires_grad:
            x = x.detach().requires_grad_()
        with torch.enable_grad() if graph and noisy else nullcontext():
            raw = s.model(x, call.t, at_step(s.cond, step))
            out = (
                raw
                if isinstance(call.a, float) and call.a == 0.0 and call.b == 1.0
                else combine(((call.a, x), (call.b, raw)))
            )
            opened.plain[call.index] = opened.guided[call.index] = (
                out.detach() if s.through is Through.NOTHING else out
            )
            if not noisy:
                return out
            live = self.convert(raw, x, s.model.prediction, DATA, time)
        ctx = Context(
            s, step, attempt, not seen and opens(s.plan, step), time, x, live, opened, call.index, op.want
        )
        seen.append(ctx)
        if not self.hooks & {Hook.DATA, Hook.VELOCITY}:
            return out.detach() if s.through is Through.NOTHING else out
        before = ctx.data
        data = self.guide.data(ctx, before) if Hook.DATA in self.hooks else before
        have, value, old = DATA, data, before
        if Hook.VELOCITY in self.hooks:
            old = self.convert(data, ctx.x, DATA, FLOW, time)
            new = self.guide.velocity(ctx, old)
            if new is not old:
                have, value = FLOW, new
        if value is before:
            return out.detach() if s.through is Through.NOTHING else out
        if s.through is Through.STOPPED:
            natural = live if have is DATA else self.convert(live, ctx.x, DATA, FLOW, time)
            value = self.stopped(natural, value)
        x = x.detach() if s.through is Through.NOTHING else x
        out = self.convert(value, x, have, op.want, time)
        opened.guided[call.index] = out
        return out

    def stopped(self, live: Tensor, value: Tensor) -> Tensor:
        """`value`, with the gradient of `live` where corrections are held constant."""
        if self.setting.through is not Through.STOPPED or value is live:
            return value
        return live + (value - live).detach()

    def convert(self, value: Tensor, x: Tensor, have: Any, want: Any, time: Tensor) -> Tensor:
        if have == want:
            return value
        a, b = (per_sample(c.to(x), x) for c in conversion(have, want, self.setting.plan.process, time))
        return a * x + b * value


class _Fresh(Noise):
    """The plan's noise in a repetition: drawn from the guide's stream, for its own slots have been used."""

    def __init__(self, seen: list[Context]) -> None:
        self.seen = seen

    def check(self, slots: int, like: Tensor) -> None: ...

    def __call__(self, slot: int, like: Tensor) -> Tensor:
        return self.seen[0].draw()


def _check(plan: Plan, x: Tensor, cond: Any, noise: Noise | Tensor | None) -> None:
    if x.ndim < 2 or not x.is_floating_point():
        raise ValueError(
            f"x: got shape {tuple(x.shape)} of {x.dtype}, expected a floating point (B, ...) state with a "
            "batch axis"
        )
    if plan.slots and noise is None:
        raise ValueError(
            f"noise: got None, expected a source with {plan.slots} slots for {plan.name}; pass "
            "noise=Addressed(seed)"
        )
    found: list[int] = []
    tree_map_only(PerStep, lambda leaf: found.append(len(leaf.values)), cond)
    if any(length != plan.steps for length in found):
        raise ValueError(
            f"cond: got PerStep with {found} values, expected {plan.steps}, one for each step of the plan"
        )


def _finite(step: int, plan: Plan, loss: Tensor | None, x: Tensor) -> None:
    for what, value in (("loss", loss), ("state", x)):
        if value is not None and not bool(torch.isfinite(value.detach()).all()):
            raise FloatingPointError(
                f"{what}: not finite at step {step} (t={plan.times[step]}), expected finite values; lower "
                "the guide's scale, choose a policy that normalises, or check the network there"
            )
