"""Kinds: what an argument is, said in the words of whoever passed it."""

import inspect
from types import FunctionType, MethodType
from typing import Any

from torch import Tensor


def check_kind(name: str, value: object, kinds: type | tuple[type, ...], wanted: str) -> None:
    """Raise TypeError "<name>: got <value>, expected <wanted>" unless `value` is an instance of one of `kinds`.

    Args:
        wanted: "a Plan; compile one with method.plan(process, grid)": what is expected, and what to do.

    A class in the place of an instance is told to be called.
    """
    if isinstance(value, kinds):
        return
    if isinstance(value, type) and issubclass(value, kinds):
        wanted = f"an instance of it; write {instance(value)}"
    raise TypeError(f"{name}: got {described(value)}, expected {wanted}")


def described(value: Any) -> str:
    """A few words for any object: never its whole contents."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, MethodType):
        return f"the method {value.__func__.__qualname__}"
    if isinstance(value, FunctionType):
        return "a lambda" if value.__name__ == "<lambda>" else f"the function {value.__name__}"
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)} of {value.dtype}"
    if value is None or isinstance(value, str | int | float | complex):
        return repr(value)
    name = {"ndarray": "numpy array"}.get(type(value).__name__, type(value).__name__)
    return f"{'an' if name[0] in 'AEIOaeio' else 'a'} {name}"


def instance(kind: type) -> str:
    """How an instance of a class is written: `Checkpoint()`, or `Truncated(...)` where it needs arguments."""
    try:
        parameters = inspect.signature(kind).parameters.values()
    except ValueError:  # of a class written in C
        return f"{kind.__name__}(...)"
    needed = [
        p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    return f"{kind.__name__}({'...' if needed else ''})"
