"""What a call is given, looked at by its annotations before any of it is used."""

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from torch import Tensor
from torch.compiler import is_dynamo_compiling

from .kinds import check_kind, described
from .wanted import Wanted

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
PACKAGE = __name__.partition(".")[0]


@dataclass(frozen=True)
class _Expected:
    """One kind of value that an argument may be, `words` for it, and what must hold of it, which is `wanted`."""

    kind: type
    words: str
    holds: Callable[[Any], bool] = lambda value: True
    wanted: str = ""


PLAIN: dict[Any, _Expected] = {
    int: _Expected(Integral, "a whole number"),
    float: _Expected(Real, "a number"),
    str: _Expected(str, "a string"),
    Tensor: _Expected(
        Tensor,
        "a tensor; torch.as_tensor(...) makes one of an array or a list of numbers",
        lambda value: not value.is_meta,  # it has none
    ),
    NoneType: _Expected(NoneType, "None"),
}


class _OfInit:
    """The signature of a class is that of its `__init__`; early versions of Python 3.11 would show `__new__`'s."""

    def __get__(self, made: object, owner: type) -> inspect.Signature:
        if made is not None:
            raise AttributeError("__signature__")  # what calling an instance takes is another matter
        found = inspect.signature(owner.__init__)
        return found.replace(parameters=[*found.parameters.values()][1:])


class CheckedFields:
    """A frozen dataclass, or a base of some, that users build: its arguments are looked at by `_check` before its own
    `__post_init__` works with them.
    """

    __signature__ = _OfInit()

    def __new__(cls: type[T], *args: Any, **kwargs: Any) -> T:
        if (
            not is_dynamo_compiling()
        ):  # no tracer follows it; what is built inside a compiled function is seldom wrong
            _check(_fields(cls), args, kwargs)
        return super().__new__(cls)  # type: ignore[misc]


def checked(function: F) -> F:
    """`function`, whose arguments are looked at by `_check` first. Some microseconds: not for what a loop calls."""
    parameters = inspect.signature(function).parameters
    expected = {name: _expected(each.annotation) for name, each in parameters.items()}

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        _check(expected, args, kwargs)
        return function(*args, **kwargs)

    return call  # type: ignore[return-value]


@cache
def _fields(cls: type) -> dict[str, tuple[_Expected, ...]]:
    """What the arguments of `cls(...)` may be, in order."""
    owner = next(base for base in cls.__mro__ if "__init__" in vars(base))
    filled = fields(owner) if "__dataclass_fields__" in vars(owner) else ()
    return {field.name: _expected(field.type) for field in filled if field.init}


def _check(
    expected: Mapping[str, tuple[_Expected, ...]], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> None:
    """Raise TypeError where a number, a tensor, a function or an object of this library is asked for and something
    else comes, ValueError for NaN and for what is `Wanted` otherwise. What may be anything else too is left to
    whoever takes it; too many arguments, or unknown ones, to Python.
    """
    given = {**dict(zip(expected, args, strict=False)), **kwargs}
    for name, kinds in expected.items():
        if kinds and name in given:
            _check_one(name, kinds, given[name])


def _check_one(name: str, expected: tuple[_Expected, ...], value: Any) -> None:
    kinds = tuple(each.kind for each in expected)
    wanted = " or ".join(each.wanted or each.words for each in expected)
    if Real in kinds or Integral in kinds:
        if isinstance(value, float) and math.isnan(value):
            raise ValueError(f"{name}: got nan, expected {wanted}")
        if isinstance(value, Tensor) and value.numel() == 1:  # stands for a number: one with a gradient, say
            return
    check_kind(name, value, kinds, " or ".join(each.words for each in expected))
    if not any(isinstance(value, each.kind) and each.holds(value) for each in expected):
        where = " on meta" if isinstance(value, Tensor) and value.is_meta else ""
        error = TypeError if isinstance(value, type) else ValueError
        raise error(f"{name}: got {described(value)}{where}, expected {wanted}")


def _expected(annotation: Any) -> tuple[_Expected, ...]:
    """What a value so annotated may be, of annotations that say all of it; else nothing."""
    parts = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    found = [_kind(part) for part in parts]
    said = [each for each in found if each is not None and each.words]
    return tuple(said) if len(said) == len(found) else ()


def _kind(annotation: Any) -> _Expected | None:
    """One of `_expected`. A class of this library says its own words by `WANTED`, a function in `Wanted`; without
    any (`OWN_WORDS`) they are said by whoever takes it.
    """
    if get_origin(annotation) is Annotated:
        return _annotated(*get_args(annotation))
    if annotation in PLAIN:
        return PLAIN[annotation]
    if get_origin(annotation) is Callable:
        return _Expected(Callable, "", _is_no_class)  # type: ignore[arg-type]
    ours = isinstance(annotation, type) and annotation.__module__.startswith(f"{PACKAGE}.")
    if not ours or getattr(annotation, "_is_protocol", False):
        return None
    return _Expected(annotation, getattr(annotation, "WANTED", f"an instance of {annotation.__name__}") or "")


def _annotated(kind: Any, *notes: Any) -> _Expected | None:
    """Of `Annotated[kind, Wanted(...)]`: what the kind asks for, and what the note does."""
    basic = _kind(kind) or _Expected(object, "")
    wanted = next((note for note in notes if isinstance(note, Wanted)), Wanted(basic.words))
    holds = wanted.holds
    if holds is None:
        return replace(basic, words=wanted.words)
    return _Expected(
        basic.kind,
        basic.words or wanted.words,
        lambda value: basic.holds(value) and holds(value),
        wanted.words,
    )


def _is_no_class(value: Any) -> bool:
    return not isinstance(value, type)
