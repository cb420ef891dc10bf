"""The one loop: run a plan over registers. Knows nothing of gradients; whoever calls it chooses the grad mode."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor

from .model import Model
from .noise import Noise
from .plan import Apply, Coefficient, Combine, Evaluate, Plan, last_uses
from .prediction import conversion
from .process import as_time

Value = float | Tensor  # a coefficient ready for use: a number, or one per sample shaped to broadcast
Evaluator = Callable[["Call", Tensor], Tensor]


@dataclass(frozen=True)
class Call:
    """One network call of a plan: its index, step, times (B,) and the conversion out = a x + b network(x)."""

    index: int
    step: int
    t: Tensor
    a: Value
    b: Value


@dataclass(frozen=True)
class Program:
    """A plan made ready for one model, batch, dtype and device. `ops` pairs each instruction with its prepared form."""

    plan: Plan
    ops: tuple[tuple[Any, tuple[str, ...], int], ...]


@dataclass(frozen=True)
class Sum:
    """A Combine with coefficients ready for use."""

    out: str
    terms: tuple[tuple[Value, str], ...]
    noise: tuple[tuple[Value, int], ...]


def prepare(plan: Plan, model: Model, like: Tensor) -> Program:
    """Check model and batch against the plan and bind coefficients, before any network call.

    Raises:
        ValueError: another process than the model's, a batch that a stacked plan does not fit, a prediction that does
            not determine what the plan asks for.
    """
    if model.process != plan.process:
        raise ValueError(f"process: got a plan for {plan.process}, expected the denoiser's {model.process}; compile the plan "
                         "with denoiser.process")
    if plan.batch is not None and plan.batch != len(like):
        raise ValueError(f"per-sample plan: got a batch of {len(like)}, expected {plan.batch}, one column of the grid each")

    def ready(c: Coefficient | Tensor) -> Value:
        if isinstance(c, float):
            return c
        return torch.as_tensor(c).to(like).reshape(-1, *(1,) * (like.ndim - 1))

    calls = [op for op in plan.instructions if isinstance(op, Evaluate)]
    times = torch.tensor([op.t for op in calls], dtype=torch.float64)
    labels = times.to(like).reshape(len(calls), -1).expand(-1, len(like)).unbind(0)
    maps = _maps(plan, model, calls, times)
    steps = iter(sorted(plan.starts))
    opening, step, count, ops = next(steps, None), -1, 0, []
    for k, (op, dead) in enumerate(zip(plan.instructions, last_uses(plan.instructions, plan.exit), strict=True)):
        if k == opening:
            step, opening = step + 1, next(steps, None)
        item: Any = op
        if isinstance(op, Evaluate):
            item = (op, Call(count, step, labels[count], *(ready(c) for c in maps[count])))
            count += 1
        elif isinstance(op, Combine):
            item = Sum(op.out, tuple((ready(c), r) for c, r in op.terms), tuple((ready(c), s) for c, s in op.noise))
        ops.append((item, dead, step))
    return Program(plan, tuple(ops))


def _maps(plan: Plan, model: Model, calls: Sequence[Evaluate], times: Tensor) -> list[tuple[Any, Any]]:
    """(a, b) of every call, computed in one float64 sweep per kind of prediction asked for."""
    result: list[tuple[Any, Any]] = [(0.0, 1.0)] * len(calls)
    for want in {op.want for op in calls}:
        index = [k for k, op in enumerate(calls) if op.want == want]
        a, b = conversion(model.prediction, want, plan.process, as_time(times[index]))
        for k, pair in zip(index, zip(a.tolist(), b.tolist(), strict=True), strict=True):
            result[k] = tuple(tuple(c) if isinstance(c, list) else c for c in pair)  # type: ignore[assignment]
    return result


def combine(terms: Iterable[tuple[Value, Tensor]]) -> Tensor:
    """sum of c * tensor into a fresh accumulator: in-place adds on it save nothing and are safe under autograd."""
    total: Tensor | None = None
    for c, value in terms:
        if total is None:
            total = value * c
        else:
            total = _added(total, value, c)
    assert total is not None
    return total


def _added(total: Tensor, value: Tensor, c: Value) -> Tensor:
    """total + c value, in place unless torch.func wraps `value`: it may have a batch that `total` has no room for."""
    if is_functorch_wrapped_tensor(value):
        return total + c * value
    return total.addcmul_(value, c) if isinstance(c, Tensor) else total.add_(value, alpha=c)


def total(item: Sum, registers: dict[str, Tensor], noise: Noise | None) -> Tensor:
    """What a Combine writes."""
    value = combine([(c, registers[name]) for c, name in item.terms])
    for c, slot in item.noise:
        assert noise is not None
        value = _added(value, noise(slot, value), c)
    return value


def predict(model: Model, call: Call, x: Tensor, cond: Any) -> Tensor:
    """The prediction a plan asked for: a x + b model(x, t)."""
    out = model(x, call.t, cond)
    if isinstance(call.a, float) and call.a == 0.0 and call.b == 1.0:
        return out
    return combine(((call.a, x), (call.b, out)))


def execute(program: Program, registers: dict[str, Tensor], evaluate: Evaluator, noise: Noise | None,
            before: Callable[[int, dict[str, Tensor]], None] | None = None) -> dict[str, Tensor]:
    """Run the instructions over `registers` (changed in place and returned).

    Args:
        evaluate: called with (call, state) for every Evaluate.
        before: called with (step, registers) when a step opens: controls, callbacks, progress.
    """
    current = -1
    for item, dead, step in program.ops:
        if step != current:
            current = step
            if before is not None:
                before(step, registers)
        if isinstance(item, Sum):
            registers[item.out] = total(item, registers, noise)
        elif isinstance(item, Apply):
            results = item.fn(*(registers[name] for name in item.srcs))
            registers.update(zip(item.outs, results if len(item.outs) > 1 else (results,), strict=True))
        else:
            op, call = item
            out = evaluate(call, registers[op.src])
            registers.update(zip(op.outs, out if len(op.outs) > 1 else (out,), strict=True))
        for name in dead:
            registers.pop(name, None)
    return registers


def entry(plan: Plan, x: Tensor | dict[str, Tensor]) -> dict[str, Tensor]:
    """The registers `plan` starts from; raises ValueError where `x` does not give them."""
    registers = {"x": x} if isinstance(x, Tensor) else dict(x)
    if set(registers) != set(plan.entry):
        raise ValueError(f"x: got registers {sorted(registers)}, expected {sorted(plan.entry)} for {plan.name}; an inverse starts "
                         "from what `encode` returns")
    return registers


def run(model: Model, plan: Plan, x: Tensor | dict[str, Tensor], cond: Any = None, noise: Noise | None = None) -> Tensor:
    """Run `plan` from state x (B, ...): the plain loop, differentiable by ordinary autograd. An inverse takes registers.

    `adjoint.sample` is the entry point with checks, memory strategies, callbacks and progress.
    """
    registers = entry(plan, x)
    program = prepare(plan, model, registers["x"])
    return execute(program, registers, lambda call, state: predict(model, call, state, cond), noise)["x"]
