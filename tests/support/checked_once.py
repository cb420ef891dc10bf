"""beartype's check of a nested function is written once, not at each call of the function around it.

A decorator on a nested function runs whenever the function around it does, and beartype writes and compiles its
wrapper anew each time: up to a millisecond, for functions that the library defines at every step. A wrapper depends
on the code and the annotations alone, so the next function of the same two gets a copy of the first one's.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from types import CellType, FunctionType
from typing import Any

from beartype import BeartypeConf, beartype
from beartype._decor import decorcache

Decorator = Callable[[Any], Any]


def check_nested_functions_once(conf: BeartypeConf) -> None:
    """Whatever is decorated under `conf` from now on is decorated so. Every call is checked as before.

    beartype keeps one decorator for each `conf`, in a dict that is not public: a release without it is slower, not
    wrong, and tests/project/test_checked_once.py says so.
    """
    kept = getattr(decorcache, "_bear_conf_to_decor", None)
    if isinstance(kept, dict):
        kept[conf] = once(beartype(conf=conf))


def once(decorate: Decorator) -> Decorator:
    """`decorate`, whose wrapper of a nested function is copied for the next function of the same code.

    What is not such a function is decorated anew: what has defaults, which are checked there too, and what names
    types by strings, which mean what they do where they stand.
    """
    made: dict[tuple[int, int], _Pattern | None] = {}

    @functools.wraps(decorate)
    def decorated(thing: Any) -> Any:
        if type(thing) is not FunctionType or "<locals>" not in thing.__qualname__:
            return decorate(thing)
        hints = thing.__annotations__
        by_name = any(isinstance(hint, str) for hint in hints.values())
        if not hints or by_name or thing.__defaults__ or thing.__kwdefaults__:
            return decorate(thing)
        key = id(thing.__code__), id(thing.__globals__)  # the pattern holds both
        if key not in made:
            made[key] = _Pattern.of(thing, decorate)
        pattern = made[key]
        if pattern is None or pattern.like.__annotations__ != hints:
            return decorate(thing)
        return pattern.around(thing)

    return decorated


@dataclass(frozen=True, eq=False)
class _Pattern:
    """`wrapper` is beartype's of `like`: a function of some code that closes over nothing, so that nothing is kept."""

    like: FunctionType
    wrapper: FunctionType

    @classmethod
    def of(cls, function: FunctionType, decorate: Decorator) -> "_Pattern | None":
        """None where the wrapper does not hold the function as one that can be copied does."""
        empty = tuple(CellType() for _ in function.__closure__ or ())
        like = FunctionType(function.__code__, function.__globals__, function.__name__, None, empty)
        like.__qualname__, like.__module__ = function.__qualname__, function.__module__
        like.__annotations__ = dict(function.__annotations__)
        wrapper = decorate(like)
        held = type(wrapper) is FunctionType and like in (wrapper.__kwdefaults__ or {}).values()
        return cls(like, wrapper) if held or wrapper is like else None

    def around(self, function: FunctionType) -> FunctionType:
        """What `decorate(function)` would be."""
        first: Any = self.wrapper  # pyright takes a function in a class for a method
        if first is self.like:  # nothing to check
            return function
        copy = FunctionType(
            first.__code__, first.__globals__, first.__name__, first.__defaults__, first.__closure__
        )
        copy.__kwdefaults__ = {
            name: function if value is self.like else value for name, value in first.__kwdefaults__.items()
        }
        vars(copy).update(vars(first))
        return functools.update_wrapper(copy, function)  # type: ignore[return-value]
