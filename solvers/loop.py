"""The one loop: run a plan over registers. Knows nothing of gradients; whoever calls it chooses the grad mode."""

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor

from .checked import checked
from .instructions import Apply, called_as
from .linear_map import Mixer, Value
from .model import Model
from .noise import Noise
from .opening import Opening
from .packing import State
from .per_step import at_step, check_steps
from .plan import Plan
from .program import BoundCombine, BoundEvaluate, Call, Evaluator, Program, prepare

IN_PLACE = (
    "writes into its argument in place, expected it read only; let it work on a clone, or use clamp for clamp_ and the "
    "like"
)


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
    if isinstance(c, float):
        return total.add_(value, alpha=c)
    if isinstance(c, Mixer):
        return total + c * value
    return total.addcmul_(value, c) if isinstance(c, Tensor) else total.add_(value, alpha=c)


def _sum(x: Tensor, value: Tensor, c: Value) -> Tensor:
    """x + c value, a fresh tensor; of like tensors in one pass, with the very numbers of `_added` to a copy of x."""
    if isinstance(c, float) and x.dtype == value.dtype and x.shape == value.shape:
        return torch.add(x, value, alpha=c)
    return _added(x * 1.0, value, c)


def total(item: BoundCombine, registers: dict[str, Tensor], noise: Noise | None) -> Tensor:
    """What a Combine writes."""
    (c, name), *rest = item.terms
    if rest and isinstance(c, float) and c == 1.0:
        (c, other), *rest = rest
        value = _sum(registers[name], registers[other], c)
    else:
        value = registers[name] * c
    for c, name in rest:
        value = _added(value, registers[name], c)
    for c, slot in item.noise:
        assert noise is not None
        value = _added(value, noise(slot, value), c)
    return value


def predict(model: Model, call: Call, x: Tensor, cond: Any) -> Tensor:
    """The prediction a plan asked for: a x + b model(x, t), or a function of it; with the model's v, (2, B, ...), where
    the plan asked for both.
    """
    if call.op is None or not call.op.variance:
        return treated(call, converted(call, x, called(model, call, x, cond)))
    out, v = called(model.with_variance, call, x, cond).chunk(2, 1)
    return torch.stack((treated(call, converted(call, x, out)), v))


def called(model: Callable[..., Tensor], call: Call, x: Tensor, cond: Any) -> Tensor:
    """model(x, t).

    Raises:
        RuntimeError: a model that writes into x or t, which other registers, replays and the caller share.
    """
    t = call.t.contiguous()  # of a batch it is one number, seen B times
    before = version(x) + version(t)
    try:
        out = model(x, t, cond)
    except RuntimeError as error:
        if "in-place operation" in str(error):  # autograd's own refusal, where x is a leaf of its graph
            error.add_note(
                f"network call {call.index} of step {call.step}: x and t are read only; write to a clone"
            )
        if version(x) + version(t) != before:
            raise _writing(call) from error
        raise
    if version(x) + version(t) != before:
        raise _writing(call)
    if x.requires_grad and not out.requires_grad and torch.is_grad_enabled():
        warnings.warn(
            "network: got a prediction without a graph from a state that requires grad, expected one that autograd can "
            "follow: the gradient takes it for a constant, which is right for a network that does not look at x; look "
            "for no_grad, inference_mode, detach or numpy in it, or take gradient=JacobianFree() if that is meant",
            UserWarning,
            stacklevel=2,
        )
    return out


def _writing(call: Call) -> RuntimeError:
    return RuntimeError(
        f"network call {call.index} of step {call.step}: got a network that writes into its input x or t in "
        "place, expected it to read them only; let it work on a clone"
    )


def version(x: Tensor) -> int:
    """How many writes in place there have been to x; a tensor made under inference_mode does not count them."""
    try:
        return x._version
    except RuntimeError:
        return 0


def converted(call: Call, x: Tensor, out: Tensor) -> Tensor:
    """The network's output at x as the prediction that `call` asks for: a x + b out."""
    if isinstance(call.a, float) and call.a == 0.0 and call.b == 1.0:
        return out
    return combine(((call.a, x), (call.b, out)))


def treated(call: Call, out: Tensor) -> Tensor:
    """What `call` makes of its prediction `out`: then(out), (B, ...); where `out` is asked for too, both stacked,
    (2, B, ...).

    Raises:
        RuntimeError: a function that writes into its argument. ValueError: one that changes its shape.
    """
    then = None if call.op is None else call.op.then
    if then is None:
        return out
    assert call.op is not None
    before = version(out)
    made = then(out)
    named = f"network call {call.index} of step {call.step}: got the function {called_as(then)}, which"
    if version(out) != before:
        raise RuntimeError(f"{named} {IN_PLACE}")
    if made.shape != out.shape:  # it would be broadcast over batch mates
        raise ValueError(
            f"{named} got shape {tuple(out.shape)} and returned {tuple(made.shape)}, expected the prediction's "
            f"{tuple(out.shape)}; expand what it shares"
        )
    return torch.stack((made, out)) if len(call.op.outs) > 1 and not call.op.variance else made


def execute(
    program: Program,
    registers: dict[str, Tensor],
    evaluate: Evaluator,
    noise: Noise | None,
    before: Callable[[int, dict[str, Tensor]], None] | None = None,
) -> dict[str, Tensor]:
    """Run the instructions over `registers` (changed in place and returned).

    Args:
        evaluate: called with (call, state) for every Evaluate.
        before: called with (step, registers) when a step opens: controls, callbacks, progress.
    """
    current = -1
    name, latest, count = "", None, 0  # the last prediction, and how often it had been written to
    for item in program.ops:
        if item.step != current:
            current = item.step
            if before is not None:
                before(current, registers)
        if isinstance(item, BoundCombine):
            registers[item.out] = total(item, registers, noise)
        elif isinstance(item, BoundEvaluate):
            out = evaluate(item.call, registers[item.op.src])
            if latest is not None and registers.get(name) is latest and version(latest) != count:
                raise RuntimeError(
                    f"network call {item.call.index} of step {item.step}: got a network that writes into its output of "
                    "the call before, which the plan still reads, expected a tensor of its own each time; return a "
                    "clone"
                )
            if item.op.variance and out.ndim == registers[item.op.src].ndim:
                raise ValueError(
                    f"{item.op}: got the prediction alone from this way of running a plan, expected v with it; take "
                    "DDPM() without learned variances here"
                )
            write(registers, item.op.outs, out)
            if isinstance(out, Tensor):
                name, latest, count = item.op.outs[0], out, version(out)
        else:
            write(registers, item.op.outs, _applied(item.op, [registers[name] for name in item.op.srcs]))
        for name in item.dead:
            registers.pop(name, None)
    return registers


def _applied(op: Apply, values: list[Tensor]) -> Any:
    """What an Apply writes. Raises RuntimeError where its function writes into what it is given."""
    before = [version(value) for value in values]
    out = op.fn(*values)
    if [version(value) for value in values] != before:
        raise RuntimeError(f"{op}: got a function that {IN_PLACE}")
    return out


def write(registers: dict[str, Tensor], names: tuple[str, ...], results: Any) -> None:
    """One result into its register, or several into theirs."""
    if len(names) == 1:
        registers[names[0]] = results
    else:
        registers.update(zip(names, results, strict=True))


@checked
def run(
    model: Model,
    plan: Plan,
    x: State | dict[str, State],
    cond: Any = None,
    noise: Noise | State | None = None,
) -> State:
    """Run `plan` from state x (B, ...): the plain loop, differentiable by ordinary autograd. An inverse, and
    the rest of a plan that was split, take registers.

    `adjoint.sample` is the entry point with checks, memory strategies, callbacks and progress; arguments are as
    there.
    """
    start = Opening.of(model, plan, x, noise)
    return start.packing.unpack(_executed(start, cond)["x"])


@checked
def advance(
    model: Model,
    plan: Plan,
    x: State | dict[str, State],
    cond: Any = None,
    noise: Noise | State | None = None,
) -> dict[str, State]:
    """As `run`, for all registers that the plan leaves, `plan.exit`: what the rest of a split plan starts from."""
    start = Opening.of(model, plan, x, noise)
    done = _executed(start, cond)
    return {name: start.packing.unpack(done[name]) for name in plan.exit}


def evaluator(start: Opening, cond: Any) -> Evaluator:
    """The network calls of a run from `start`. Raises ValueError where PerStep conditioning does not fit the plan."""
    if not check_steps(cond, start.plan.steps):
        return lambda call, state: predict(start.model, call, state, cond)
    return lambda call, state: predict(start.model, call, state, at_step(cond, call.step))


def _executed(start: Opening, cond: Any) -> dict[str, Tensor]:
    """The registers at the end."""
    registers = dict(start.registers)
    program = prepare(start.plan, start.model, registers["x"])
    return execute(program, registers, evaluator(start, cond), start.noise)
