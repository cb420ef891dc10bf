"""The exact discrete adjoint of a plan: the same instructions backwards, with transposed coefficients.

For `out <- sum c_r reg_r + sum k_j noise_j` the cotangents move as `a_r += c_r a_out`, `a_noise_j += k_j
a_out`; for an Evaluate as `a_src += VJP(a_out)`. What the VJP needs is the caller's business.
"""

from collections.abc import Callable

from torch import Tensor

from ...solvers import Call
from ...solvers.linear_map import Mixer, Value, transposed
from ...solvers.program import BoundCombine, BoundEvaluate, Program
from .rollout import Registers
from .sensitivity import Sensitivity

VJP = Callable[[Call, str, Tensor], Tensor | None]


class Cotangents:
    """Adjoint registers; a missing one is zero."""

    def __init__(self, **start: Tensor) -> None:
        self.values = dict(start)

    def take(self, name: str) -> Tensor | None:
        """The cotangent of a register at the point where it was written, removed: before, it held something else."""
        return self.values.pop(name, None)

    def add(self, name: str, value: Tensor, c: Value = 1.0) -> None:
        """a_name += c value, in place where c is a number.

        The tensor is our own: what `start` brought belongs to autograd, and is taken by the instruction that
        wrote the register before anything can be added to it.
        """
        held = self.values.get(name)
        if held is None:
            self.values[name] = value * c
        elif isinstance(c, Mixer):
            self.values[name] = held + c * value
        elif isinstance(c, Tensor):
            held.addcmul_(value, c)
        else:
            held.add_(value, alpha=c)


def transpose(
    program: Program,
    end: Tensor | Registers,
    vjp: VJP,
    into: Sensitivity,
    undo: Callable[[int], None] | None = None,
    opened: Callable[[int], None] | None = None,
) -> Registers:
    """Walk `program` backwards from the cotangent `end` of "x" (or of several registers).

    Returns the cotangents of the registers on entry.

    Args:
        vjp: (call, source register, cotangent of the prediction) -> cotangent of the source; None where
            nothing flows.
        into: receives the cotangents of noise and controls.
        undo: given each instruction's index before its cotangents move: a reversible plan restores a register
            there.
        opened: given each step when its first instruction is undone.
    """
    cotangents, ops = Cotangents(**({"x": end} if isinstance(end, Tensor) else end)), program.ops
    for k in range(len(ops) - 1, -1, -1):
        item = ops[k]
        if undo is not None:
            undo(k)
        if isinstance(item, BoundCombine):
            a = cotangents.take(item.out)
            if a is not None:
                for c, name in item.terms:
                    cotangents.add(name, a, transposed(c))
                for c, slot in item.noise:
                    into.noise(slot, a, transposed(c))
        else:
            assert isinstance(item, BoundEvaluate)  # a plan with an Apply is differentiated by autograd
            op = item.op
            a = cotangents.take(op.outs[0])
            a = None if a is None else vjp(item.call, op.src, a)
            if a is not None:
                cotangents.add(op.src, a)
        if k == 0 or ops[k - 1].step != item.step:
            if opened is not None:
                opened(item.step)
            if "x" in cotangents.values:
                into.opened(item.step, cotangents.values["x"])
            jump = into.jump(item.step)
            if jump is not None:
                cotangents.add("x", jump)
    return cotangents.values
