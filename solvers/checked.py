"""What a call is given, looked at by its annotations before any of it is used."""

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args

from torch import Tensor

from .kinds import check_kind

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
PLAIN: dict[Any, tuple[type, str]] = {
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    Tensor: (Tensor, "a tensor; torch.as_tensor(...) makes one of an array or a list of numbers"),
    NoneType: (NoneType, "None"),
}
PACKAGE = __name__.partition(".")[0]


class CheckedFields:
    """A frozen dataclass, or a base of some, that users build: its arguments are looked at by `_check` before its own
    `__post_init__` works with them. A field's `metadata={"wanted": ...}` says in its own words what is expected; with
    None the class looks by itself.
    """

    def __new__(cls: type[T], *args: Any, **kwargs: Any) -> T:
        kinds, words = _fields(cls)
        _check(kinds, words, args, kwargs)
        return super().__new__(cls)  # type: ignore[misc]


def checked(function: F, *, own: tuple[str, ...] = ()) -> F:
    """`function`, whose arguments are looked at by `_check` first. Some microseconds: not for what a loop calls.

    Args:
        own: arguments of which `function` says itself what is wrong with them.
    """
    kinds = {name: each.annotation for name, each in inspect.signature(function).parameters.items()}
    words: dict[str, str | None] = dict.fromkeys(own)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        _check(kinds, words, args, kwargs)
        return function(*args, **kwargs)

    return call  # type: ignore[return-value]


@cache
def _fields(cls: type) -> tuple[dict[str, Any], dict[str, str | None]]:
    """(annotations, own words) of what the arguments of `cls(...)` fill, in order."""
    owner = next(base for base in cls.__mro__ if "__init__" in vars(base))
    filled = [field for field in fields(owner) if field.init] if "__dataclass_fields__" in vars(owner) else []
    words = {field.name: field.metadata["wanted"] for field in filled if "wanted" in field.metadata}
    return {field.name: field.type for field in filled}, words


def _check(
    kinds: Mapping[str, Any],
    words: Mapping[str, str | None],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> None:
    """Raise TypeError where a number, a tensor or an object of this library is asked for and something else comes,
    ValueError for NaN. What may be anything else too is left to whoever takes it; too many arguments, or unknown
    ones, to Python.
    """
    given = {**dict(zip(kinds, args, strict=False)), **kwargs}
    for name, annotation in kinds.items():
        if name in given and words.get(name, "") is not None:
            _check_one(name, annotation, given[name], words.get(name))


def _check_one(name: str, annotation: Any, value: Any, words: str | None) -> None:
    parts = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    known = [found for found in map(_kind, parts) if found is not None]
    if len(known) < len(parts):
        return
    kinds, wanted = tuple(kind for kind, _ in known), words or " or ".join(told for _, told in known)
    if Real in kinds or Integral in kinds:
        if isinstance(value, float) and math.isnan(value):
            raise ValueError(f"{name}: got nan, expected {wanted}")
        if (
            isinstance(value, Tensor) and value.numel() == 1
        ):  # it stands for a number: one with a gradient, say
            return
    check_kind(name, value, kinds, wanted)


def _kind(annotation: Any) -> tuple[type, str] | None:
    """(what to be an instance of, in words) of annotations that say it plainly. A class says its own words by `WANTED`;
    with None they are said by whoever takes it.
    """
    if annotation in PLAIN:
        return PLAIN[annotation]
    ours = isinstance(annotation, type) and annotation.__module__.startswith(f"{PACKAGE}.")
    if not ours or getattr(annotation, "_is_protocol", False):
        return None
    wanted = getattr(annotation, "WANTED", f"an instance of {annotation.__name__}")
    return (annotation, wanted) if wanted else None
