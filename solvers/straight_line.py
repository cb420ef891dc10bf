"""A run as straight-line code, as torch.compile traces it: every number is known, and nothing is read on the way.

The loop of `loop.py` looks at what a network did to its inputs, by the tensors' counters of writes; a tracer has none.
Here the network gets copies and what it returns is copied, so that no write can reach what others read; the compiler
takes out those copies that nobody writes to.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from .instructions import Evaluate
from .linear_map import Value
from .loop import write
from .model import Model
from .noise import Noise
from .program import Bound, BoundCombine, BoundEvaluate, Call, Evaluator
from .traced_noise import traced_draw


def straight_line(
    ops: Iterable[Bound],
    functions: Mapping[int, Callable[..., Any]],
    registers: dict[str, Tensor],
    evaluate: Evaluator,
    noise: Noise | None,
    before: Callable[[int, dict[str, Tensor]], None],
) -> dict[str, Tensor]:
    """What `execute` does, without its checks.

    Args:
        functions: of the instructions that apply one, by their places: looked up in the plan by the caller, since the
            tracer must see where they come from.
        evaluate: (call, state) -> prediction, without the plan's function of it.
    """
    current = -1
    for k, item in enumerate(ops):
        if item.step != current:
            current = item.step
            before(current, registers)
        if isinstance(item, BoundCombine):
            registers[item.out] = _total(item, registers, noise)
        elif isinstance(item, BoundEvaluate):
            out = evaluate(item.call, registers[item.op.src])
            write(registers, item.op.outs, _treated(item, functions[k], out) if k in functions else out)
        else:
            write(registers, item.op.outs, functions[k](*[registers[name].clone() for name in item.op.srcs]))
        for name in item.dead:
            registers.pop(name, None)
    return registers


def traced_prediction(model: Model, call: Call, x: Tensor, cond: Any, learned: bool) -> Tensor:
    """The prediction that `call` asks for at x, with the model's v where it asks for that: `predict` without its
    checks. `learned`: whether the call's numbers are tensors of the graph, t among them.
    """
    assert call.op is not None
    t = call.t.clone() if learned else _times(call.op, x)
    if not call.op.variance:
        return _converted(call, x, model(x.clone(), t, cond).clone())
    out, v = model.with_variance(x.clone(), t, cond).clone().chunk(2, 1)
    return torch.stack((_converted(call, x, out), v))


def _converted(call: Call, x: Tensor, out: Tensor) -> Tensor:
    """a x + b out; of a network that predicts what is asked for `out` itself."""
    if isinstance(call.a, float) and call.a == 0.0 and call.b == 1.0:
        return out
    return _sum(((call.a, x), (call.b, out)))


def _times(op: Evaluate, x: Tensor) -> Tensor:
    """t (B,) as a number of the graph, not as a tensor that goes into it."""
    if isinstance(op.t, tuple):
        return torch.tensor(op.t, dtype=x.dtype, device=x.device)
    return torch.full((len(x),), op.t, dtype=x.dtype, device=x.device)


def _treated(item: BoundEvaluate, then: Callable[[Tensor], Tensor], out: Tensor) -> Tensor:
    """then(prediction), and what else the instruction writes beside it."""
    prediction, *variance = out if item.op.variance else (out,)
    made = then(prediction.clone())
    if made.shape != prediction.shape:  # it would be broadcast over batch mates
        raise ValueError(
            f"{item.op.want.name} of network call {item.call.index}: got a function that returned "
            f"{tuple(made.shape)}, expected the prediction's {tuple(prediction.shape)}; expand what it shares"
        )
    beside = variance or [prediction] if len(item.op.outs) > 1 else []
    return torch.stack((made, *beside)) if beside else made


def _total(item: BoundCombine, registers: dict[str, Tensor], noise: Noise | None) -> Tensor:
    total = _sum([(c, registers[name]) for c, name in item.terms])
    for c, slot in item.noise:
        assert noise is not None
        total = total + traced_draw(noise, slot, total) * c
    return total


def _sum(terms: Iterable[tuple[Value, Tensor]]) -> Tensor:
    """sum of c * tensor."""
    total = None
    for c, value in terms:
        part = value if isinstance(c, float) and c == 1.0 else value * c
        total = part if total is None else total + part
    assert total is not None
    return total
