"""The library as its users have it, without the checks of annotations that the tests' conftest puts around it.

torch.compile traces our functions; beartype's wrappers around them it does not.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any


@contextmanager
def untyped() -> Iterator[None]:
    """Every function and method of the library is its own, while this lasts."""
    changed = []
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] != "pullback":
            continue
        classes = [value for value in vars(module).values() if isinstance(value, type)]
        for owner in (module, *(c for c in classes if c.__module__ == name)):
            for key, value in list(vars(owner).items()):
                bare = _bare(value)
                if bare is not value:
                    changed.append((owner, key, value))
                    setattr(owner, key, bare)
    try:
        yield
    finally:
        for owner, key, value in changed:
            setattr(owner, key, value)


def _bare(value: Any) -> Any:
    """`value` without a wrapper of beartype's."""
    if isinstance(value, property):
        return (
            value if _bare(value.fget) is value.fget else property(_bare(value.fget), value.fset, value.fdel)
        )
    if isinstance(value, staticmethod | classmethod):
        inner = _bare(value.__func__)
        return value if inner is value.__func__ else type(value)(inner)
    if isinstance(value, FunctionType) and value.__code__.co_filename.startswith("<@beartype"):
        return vars(value)["__wrapped__"]
    return value
