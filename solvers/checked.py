"""Checked: what a call is given, looked at by its annotations before any of it is used."""

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from functools import cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin

from torch import Tensor

from .kinds import check_kind

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")
PLAIN: dict[Any, tuple[type, str]] = {
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    Tensor: (Tensor, "a tensor; torch.as_tensor(...) makes one of an array or a list of numbers"),
    NoneType: (NoneType, "None"),
}
PACKAGE = __name__.partition(".")[0]


class Checked:
    """A frozen dataclass, or a base of some, that users build: its arguments are looked at by `_check` before its own
    `__post_init__` works with them. A field's `metadata={"wanted": ...}` says in its own words what is expected.
    """

    def __new__(cls: type[T], *args: Any, **kwargs: Any) -> T:
        kinds, words = _fields(cls)
        _check(kinds, words, args, kwargs)
        return super().__new__(cls)


def checked(function: F) -> F:
    """`function`, whose arguments are looked at by `_check` first. Some microseconds: not for what a loop calls."""
    kinds = {name: each.annotation for name, each in inspect.signature(function).parameters.items()}

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        _check(kinds, {}, args, kwargs)
        return function(*args, **kwargs)

    return call  # type: ignore[return-value]


@cache
def _fields(cls: type) -> tuple[dict[str, Any], dict[str, str]]:
    """(annotations, own words) of what the arguments of `cls(...)` fill, in order; none where `__init__` is written by
    hand.
    """
    owner = next(base for base in cls.__mro__ if "__init__" in vars(base))
    fields = [field for field in vars(owner).get("__dataclass_fields__", {}).values() if field.init]
    words = {field.name: field.metadata["wanted"] for field in fields if "wanted" in field.metadata}
    return {field.name: field.type for field in fields}, words


def _check(
    kinds: Mapping[str, Any], words: Mapping[str, str], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> None:
    """Raise TypeError where a number, a tensor, a function or an object of this library is asked for and something
    else comes, ValueError for NaN. What may be anything else too is left to whoever takes it; too many arguments, or
    unknown ones, to Python.
    """
    given = dict(zip(kinds, args, strict=False)) | kwargs
    for name, annotation in kinds.items():
        if name in given:
            _check_one(name, annotation, given[name], words.get(name))


def _check_one(name: str, annotation: Any, value: Any, words: str | None) -> None:
    found = [
        _kind(part) for part in (get_args(annotation) if isinstance(annotation, UnionType) else [annotation])
    ]
    known = [each for each in found if each is not None]
    if len(known) < len(found):
        return
    kinds, wanted = tuple(kind for kind, _ in known), words or " or ".join(told for _, told in known)
    if {Real, Integral}.intersection(kinds):
        if isinstance(value, float) and math.isnan(value):
            raise ValueError(f"{name}: got nan, expected {wanted}")
        if (
            isinstance(value, Tensor) and value.numel() == 1
        ):  # it may stand for a number, with a gradient, say
            return
    check_kind(name, value, kinds, wanted)


def _kind(annotation: Any) -> tuple[type, str] | None:
    """(what to be an instance of, in words), of annotations that say it plainly."""
    if annotation in PLAIN:
        return PLAIN[annotation]
    if get_origin(annotation) is Callable:
        return Callable, "a function"  # type: ignore[return-value]
    if not isinstance(annotation, type) or getattr(annotation, "_is_protocol", False):
        return None
    ours = annotation.__module__.startswith(f"{PACKAGE}.")
    return (
        (annotation, getattr(annotation, "WANTED", f"an instance of {annotation.__name__}")) if ours else None
    )
