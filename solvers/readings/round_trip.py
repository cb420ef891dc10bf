"""A reversible plan run to its end and back: exact inversion, in float64 whatever the network's dtype."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..inverse import Inversion, undoing
from ..loop import entry, execute, predict
from ..model import Model
from ..noise import Noise
from ..plan import Plan
from ..program import Call, Evaluator, prepare


def inversion(plan: Plan) -> Inversion:
    """How to run `plan` backwards, and which registers it must carry to its end for that.

    Raises:
        ValueError: naming the first instruction, from the end, that cannot be undone.
    """
    return undoing(plan.instructions, plan.starts, plan.entry, plan.name)


def encode(
    model: Model, plan: Plan, x: Tensor, cond: Any = None, noise: Noise | None = None
) -> dict[str, Tensor]:
    """Run a reversible plan and return, in float64, every register that its inverse needs.

    `decode(model, plan, encode(model, plan, x))` is x to round-off. The network sees x's dtype. The grid may
    rise (data to noise: inversion of an image) or fall.

    Raises:
        ValueError: a plan that cannot be inverted; the instruction is named.
    """
    carried = inversion(plan).carried
    program = prepare(plan, model, x).widened(carried)
    evaluate = _narrowed(lambda call, state: predict(model, call, state, cond), x.dtype)
    registers = execute(program, entry(plan, x.double()), evaluate, noise)
    return {name: registers[name] for name in carried}


def decode(
    model: Model,
    plan: Plan,
    registers: dict[str, Tensor],
    cond: Any = None,
    noise: Noise | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Undo `plan` from the registers that `encode` returned; the network sees `dtype`, which is the result's.

    `cond` may be another than `encode`'s: that is editing by exact inversion.
    """
    back = plan.inverse()
    wide = {name: value.double() for name, value in entry(back, registers).items()}
    program = prepare(back, model, wide["x"].to(dtype)).widened(())
    evaluate = _narrowed(lambda call, state: predict(model, call, state, cond), dtype)
    return execute(program, wide, evaluate, noise)["x"].to(dtype)


def _narrowed(evaluate: Callable[[Call, Tensor], Tensor], dtype: torch.dtype) -> Evaluator:
    """`evaluate` in `dtype` for float64 registers."""
    return lambda call, state: evaluate(call, state.to(dtype)).double()
