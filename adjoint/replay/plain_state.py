"""The plain state of a network: flags, counters and texts, which leave no version behind when they change.

A network may take another path by them, with the same output and another gradient: `x.detach()` in the first calls.
"""

import random
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any

from torch import Tensor, nn

from ...solvers import Model
from ...solvers.modules_behind import is_library, named_by

BASE = frozenset(vars(nn.Module()))  # of every module: its tensors and hooks
_PLAIN = (bool, int, float, str, type(None))


def plain_state(model: Model) -> dict[tuple[int, str], Any]:
    """What the model's modules hold, and what the code of their classes names, by owner and name; copies.

    Cost: some microseconds for each module.
    """
    found, kinds = dict[tuple[int, str], Any](), set[type]()
    for network in model.networks():
        for module in network.modules():
            kinds.add(type(module))
            found[id(module), "training"] = module.training
            for name, value in vars(module).items():
                if name not in BASE:
                    found[id(module), name] = _frozen(value)
    for kind in kinds:
        for name, value in _outside(kind):
            found[id(kind), name] = _frozen(value)
    return found


def draws(model: Model) -> bool:
    """Whether the code of a module's class names Python's own random numbers, or a clock's."""
    kinds = {type(module) for network in model.networks() for module in network.modules()}
    return any(_is_random(value) for kind in kinds for _, value in _outside(kind))


def _is_random(value: Any) -> bool:
    owner = value if isinstance(value, (ModuleType, FunctionType)) else getattr(value, "__self__", value)
    if isinstance(owner, ModuleType):
        return owner.__name__ in ("random", "time", "numpy", "numpy.random")
    return isinstance(owner, random.Random) or getattr(owner, "__module__", None) == "random"


def _outside(kind: type) -> Iterator[tuple[str, Any]]:
    """What the functions of a user's class name outside it, and its own plain values."""
    for each in kind.__mro__:
        if is_library(each.__module__):
            continue
        for name, value in vars(each).items():
            if isinstance(value, FunctionType):
                yield from named_by(value)
            elif isinstance(value, (*_PLAIN, list, dict)) and not name.startswith("__"):
                yield name, value


def _frozen(value: Any, depth: int = 4) -> Any:
    """A copy that can be compared; of what is not plain, which object it is."""
    if isinstance(value, _PLAIN):
        return value
    if depth == 0 or isinstance(value, (Tensor, nn.Module, ModuleType, FunctionType, type)):
        return id(value)
    if isinstance(value, dict):  # another mapping may fetch what it holds from elsewhere
        return tuple((_frozen(key, 1), _frozen(item, depth - 1)) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(_frozen(item, depth - 1) for item in value)
    if isinstance(value, (set, frozenset)):
        return frozenset(_frozen(item, 1) for item in value)
    return id(value), _frozen(getattr(value, "__dict__", None), depth - 1)
