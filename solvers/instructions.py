"""The three instructions that samplers are written in. Registers are named tensors; "x" is the state."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .linear_map import LinearMap
from .prediction import Prediction

Time = float | tuple[float, ...]  # a number, or one for each sample of a stacked plan
Coefficient = Time | LinearMap | tuple[LinearMap, ...]


@dataclass(frozen=True)
class Evaluate:
    """outs <- the model's `want` prediction at register `src` and time `t`, or a function of it.

    With `then` the first of `outs` gets then(prediction), and a second one, if there is one, the prediction itself.
    It is part of the network call: replayed with it, and differentiated with it by autograd. With `variance` the second
    is what a `LearnedVariance` model says of its variance.
    """

    outs: tuple[str, ...]
    src: str
    t: Time
    want: Prediction
    then: Callable[[Any], Any] | None = None
    variance: bool = False

    def __str__(self) -> str:
        called = f"{self.want.name}({self.src}, t={_number(self.t).lstrip('+')})"
        if self.then is None:
            return f"{', '.join(self.outs)} <- {called}"
        first, *raw = self.outs
        return f"{first} <- {called_as(self.then)}({', '.join(raw) + ' <- ' if raw else ''}{called})"


@dataclass(frozen=True)
class Combine:
    """out <- sum of c * register over `terms` + sum of k * noise(slot) over `noise`."""

    out: str
    terms: tuple[tuple[Coefficient, str], ...]
    noise: tuple[tuple[Coefficient, int], ...] = ()

    def __str__(self) -> str:
        parts = [f"{_number(c)} {name}" for c, name in self.terms]
        parts += [f"{_number(c)} noise[{slot}]" for c, slot in self.noise]
        return f"{self.out} <- {' '.join(parts)}"


@dataclass(frozen=True)
class Apply:
    """outs <- fn(*srcs): the escape for what is not linear; differentiated by autograd."""

    outs: tuple[str, ...]
    srcs: tuple[str, ...]
    fn: Callable[..., Any]

    def __str__(self) -> str:
        return f"{', '.join(self.outs)} <- {called_as(self.fn)}({', '.join(self.srcs)})"


Instruction = Evaluate | Combine | Apply


def reads(op: Instruction) -> tuple[str, ...]:
    """The registers an instruction reads."""
    if isinstance(op, Evaluate):
        return (op.src,)
    # from a list: CPython keeps up to 2000 of the tuples that a generator filled, one more for each call
    return tuple([name for _, name in op.terms]) if isinstance(op, Combine) else op.srcs


def writes(op: Instruction) -> tuple[str, ...]:
    """The registers an instruction writes."""
    return (op.out,) if isinstance(op, Combine) else op.outs


def called_as(fn: Callable[..., Any]) -> str:
    """A function's name, or how an object prints itself."""
    return str(getattr(fn, "__name__", fn))


def _number(c: Coefficient) -> str:
    if isinstance(c, tuple):
        return f"({c[0]}, ... {len(c)})" if isinstance(c[0], LinearMap) else f"({c[0]:+.4g}, ... {len(c)})"
    return str(c) if isinstance(c, LinearMap) else f"{c:+.6g}"
