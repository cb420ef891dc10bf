"""A reversible plan run to its end and back: exact inversion, in float64 whatever the network's dtype."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..checked import checked
from ..inverse import Inversion, undoing
from ..loop import evaluator, execute
from ..model import Model
from ..noise import Noise
from ..opening import Opening
from ..packing import State
from ..plan import Plan
from ..program import prepare


@checked
def inversion(plan: Plan) -> Inversion:
    """How to run `plan` backwards, and which registers it must carry to its end for that.

    Raises:
        ValueError: naming the first instruction, from the end, that cannot be undone.
    """
    return undoing(plan.instructions, plan.starts, plan.entry, plan.name)


@checked
def encode(
    model: Model,
    plan: Plan,
    x: State | dict[str, State],
    cond: Any = None,
    noise: Noise | State | None = None,
) -> dict[str, State]:
    """Run a reversible plan and return, in float64, every register that its inverse needs.

    `decode(model, plan, encode(model, plan, x))` is x to round-off. The network sees x's dtype. The grid may
    rise (data to noise: inversion of an image) or fall.

    Raises:
        ValueError: a plan that cannot be inverted; the instruction is named.
    """
    start = Opening.of(model, plan, x, noise)
    carried = inversion(plan).carried
    dtype = start.registers["x"].dtype
    registers = _widened(start, carried, dtype, cond)
    return {name: start.packing.unpack(registers[name]) for name in carried}


def decode(
    model: Model,
    plan: Plan,
    registers: dict[str, State],
    cond: Any = None,
    noise: Noise | State | None = None,
    dtype: torch.dtype = torch.float32,
) -> State:
    """Undo `plan` from the registers that `encode` returned; the network sees `dtype`, which is the result's.

    `cond` may be another than `encode`'s: that is editing by exact inversion.
    """
    start = Opening.of(model, plan.inverse(), registers, noise)
    return start.packing.unpack(_widened(start, (), dtype, cond)["x"].to(dtype))


def _widened(start: Opening, kept: Sequence[str], dtype: torch.dtype, cond: Any) -> dict[str, Tensor]:
    """The registers at the end of a run in float64 with the network in `dtype`, those `kept` among them."""
    program = prepare(start.plan, start.model, start.registers["x"].to(dtype)).widened(kept)
    evaluate = evaluator(start, cond)
    wide = {name: value.double() for name, value in start.registers.items()}
    return execute(program, wide, lambda call, state: evaluate(call, state.to(dtype)).double(), start.noise)
