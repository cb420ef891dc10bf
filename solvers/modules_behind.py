"""The modules and parameters behind a callable: a lambda, a method, an object that holds a dict of networks.

Python objects lead everywhere (a trainer's `self` to its discriminator, its optimiser, its data), and what the
network call does not use must not be watched. So the walk follows what the code names: `lambda x, t:
self.unet(x, t)` leads to the attribute `unet` of `self` and to no other.
"""

import dis
import sys
import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from inspect import getattr_static
from threading import local
from types import CellType, CodeType, FunctionType, MappingProxyType, MethodType, ModuleType, SimpleNamespace
from typing import Any
from weakref import ReferenceType

import torch
from torch import Tensor, nn

LIMIT = 20_000  # values looked at; a few dozen are usual
SCALARS = (int, float, complex, str, bytes, range, type(None), torch.device, torch.dtype)
# code that leads to no user's network but where it is handed one
LIBRARIES = {*sys.stdlib_module_names, "torch", "numpy", "beartype"}


@dataclass(frozen=True, eq=False)
class Behind:
    """What was found: modules, each once and none for being part of another; parameters that none of them has."""

    modules: tuple[nn.Module, ...]
    parameters: tuple[nn.Parameter, ...]


class Declaring(ABC):
    """An object that says itself which networks are behind it, and is not looked into."""

    @abstractmethod
    def networks(self) -> Iterable[nn.Module]:
        """The modules that a call of it uses."""


def behind(*things: Any) -> Behind:
    """The modules and parameters that `things` are or lead to.

    Functions lead to their closures, defaults, attributes and the globals that they name; containers to their
    elements; an object to those of its attributes, slots and methods that code met on the way names (also as a
    string, for `getattr`), or to all of them where it names none. Nothing is called.

    Cost: some microseconds a value; the walk ends at `LIMIT` values with a warning.
    """
    named: set[str] = set()
    while True:
        walk = _Walk(named)
        walk.follow(things)
        if walk.named == named:
            return walk.found()
        named = walk.named  # code met late may name an attribute of an object met early


class _Walk:
    """One pass over what `things` lead to.

    Args:
        named: the attributes that code is known to name; the walk adds to a copy.
    """

    def __init__(self, named: Collection[str]) -> None:
        self.named = set(named)
        self.seen: dict[
            int, Any
        ] = {}  # the values themselves too: an id is anew in use once its object is gone
        self.modules: list[nn.Module] = []
        self.parameters: list[nn.Parameter] = []

    def follow(self, things: Iterable[Any]) -> None:
        """Code comes first: what it names decides which attributes of an object are followed."""
        code, objects = [], list(things)
        while code or objects:
            value = code.pop() if code else objects.pop()
            if id(value) in self.seen:
                continue
            if len(self.seen) == LIMIT:
                warnings.warn(
                    f"the network's callable: got more than {LIMIT} values behind it, expected fewer; the search "
                    "for modules stopped: declare them by Denoiser(..., modules=[...])",
                    stacklevel=2,
                )
                return
            self.seen[id(value)] = value
            for inner in self._inside(value):
                if not isinstance(inner, SCALARS):
                    (code if isinstance(inner, FunctionType | MethodType) else objects).append(inner)

    def found(self) -> Behind:
        """Each thing once: a part of a module that was found is that module's."""
        parts = {id(part) for module in self.modules for part in module.modules() if part is not module}
        held = {id(value) for module in self.modules for value in module.parameters()}
        alone = {id(value): value for value in self.parameters if id(value) not in held}
        return Behind(
            tuple(module for module in self.modules if id(module) not in parts), tuple(alone.values())
        )

    def _inside(self, value: Any) -> Iterator[Any]:
        if isinstance(value, Tensor):
            self.parameters += [value] if isinstance(value, nn.Parameter) else []
        elif isinstance(value, nn.Module):
            self.modules.append(value)
            for part in value.modules():
                yield from self._unregistered(part)
        elif isinstance(value, Declaring):
            yield from value.networks()
        elif isinstance(value, FunctionType):
            yield from self._of_function(value)
        elif isinstance(value, MethodType):
            yield value.__func__
            yield from _taken(value.__self__, value.__func__)
        elif isinstance(value, staticmethod | classmethod):
            yield value.__func__
        elif isinstance(value, property):
            yield value.fget
        elif isinstance(value, partial):
            yield from (value.func, *value.args, *value.keywords.values(), *vars(value).values())
        elif isinstance(value, ReferenceType):
            yield value()
        elif isinstance(value, ModuleType | type):
            yield from self._in_class(value)
        elif isinstance(value, dict | MappingProxyType):
            yield from (*value.values(), *_attributes(value).values())
        elif isinstance(value, list | tuple | set | frozenset | deque):
            yield from (*value, *_attributes(value).values())
        elif isinstance(value, SimpleNamespace | local):
            yield from self._chosen(vars(value))
        elif not is_library(type(value).__module__):
            yield from self._of_object(value)
        elif hasattr(value, "__wrapped__"):  # functools.lru_cache
            yield value.__wrapped__

    def _of_function(self, function: FunctionType) -> Iterator[Any]:
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            if cell != CellType():  # a name that is bound later
                yield from _taken(cell.cell_contents, function, name)
        yield from function.__defaults__ or ()
        yield from (function.__kwdefaults__ or {}).values()
        yield from vars(function).values()  # functools.wraps leaves the wrapped function there
        if not is_library(function.__globals__.get("__name__")):
            code = _names(function.__code__)
            self.named |= code.attributes
            scope = function.__globals__
            for name in code.globals & scope.keys():
                yield from _taken(scope[name], function, name)

    def _of_object(self, value: Any) -> Iterator[Any]:
        call = vars(type(value)).get("__call__")
        if isinstance(call, FunctionType):
            self.named |= _names(call.__code__).attributes
            yield call
        yield from self._chosen(_attributes(value))
        yield from self._in_class(type(value))

    def _chosen(self, own: dict[str, Any]) -> Iterator[Any]:
        """The attributes that code names; all where it names none."""
        yield from (own[name] for name in own.keys() & self.named or own)

    def _in_class(self, kind: ModuleType | type) -> Iterator[Any]:
        """What code names in a Python module, or in a class and in those it comes from."""
        for each in kind.__mro__ if isinstance(kind, type) else (kind,):
            if not is_library(each.__module__ if isinstance(each, type) else each.__name__):
                yield from (vars(each)[name] for name in vars(each).keys() & self.named)

    def _unregistered(self, module: nn.Module) -> Iterator[Any]:
        """What a module's own `forward` names and keeps from `modules()`: a network in a plain list."""
        forward = getattr(type(module), "forward", None)  # of a TorchScript module: no Python function
        if isinstance(forward, FunctionType) and not is_library(forward.__module__):
            names = _names(forward.__code__).attributes
            own = vars(module)
            yield from (own[name] for name in names & own.keys())


@dataclass(frozen=True)
class _Names:
    """What a function's code, and that of functions inside it, names."""

    globals: frozenset[str]
    attributes: frozenset[str]


@lru_cache(maxsize=4096)
def _names(code: CodeType) -> _Names:
    scope, attributes = set[str](), set[str]()
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            scope.add(step.argval)
        elif step.opname.startswith("LOAD_") and step.argval in code.co_names:
            attributes.add(step.argval)
        elif step.opname == "LOAD_CONST" and isinstance(step.argval, str):
            attributes.add(step.argval)
    inner = [_names(const) for const in code.co_consts if isinstance(const, CodeType)]
    return _Names(
        frozenset(scope).union(*(names.globals for names in inner)),
        frozenset(attributes).union(*(names.attributes for names in inner)),
    )


def _taken(value: Any, function: Any, name: str | None = None) -> Iterator[Any]:
    """What `function` takes of `value`, its `name`: of a module that it only names attributes of, those; else all.

    A training module that holds a critic beside the network is not whole behind `lambda x, t: self.net(x, t)`.
    """
    parts = _parts(value, _used(function, name)) if isinstance(value, nn.Module) else None
    yield from [value] if parts is None else parts


def _parts(module: nn.Module, names: frozenset[str] | None) -> list[Any] | None:
    """The attributes `names`, and those that methods among them name; None where it is used as a whole."""
    if names is None:
        return None
    own, found, seen, todo = vars(module), list[Any](), set[str](), sorted(names)
    held = {**own, **own["_parameters"], **own["_buffers"], **own["_modules"]}
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in held:
            found.append(held[name])
            continue
        value = getattr_static(type(module), name, None)
        method = value.fget if isinstance(value, property) else value
        used = _used(method)
        if used is None:
            return None
        found.append(method)
        todo += used
    return found


def _used(function: Any, name: str | None = None) -> frozenset[str] | None:
    """The attributes of `name`, by default of `self`, that the code takes; None where it does anything else with it."""
    if not isinstance(function, FunctionType) or is_library(function.__module__):
        return None
    code = function.__code__
    if name is None:
        name = code.co_varnames[0] if code.co_argcount else None
    return None if name is None else _used_by(code, name)


@lru_cache(maxsize=4096)
def _used_by(code: CodeType, name: str) -> frozenset[str] | None:
    steps, found = list(dis.get_instructions(code)), set[str]()
    if "super" in code.co_names:
        return None
    for step, after in zip(steps, steps[1:], strict=False):
        loads = step.opname.startswith("LOAD_") and step.opname not in ("LOAD_CLOSURE", "LOAD_CONST", "LOAD_ATTR",
                                                                        "LOAD_METHOD")  # fmt: skip
        # some versions of Python load two names in one step
        if not loads or step.argval != name and not (isinstance(step.argval, tuple) and name in step.argval):
            continue
        if after.opname not in ("LOAD_ATTR", "LOAD_METHOD"):
            return None
        found.add(after.argval)
    for inner in (const for const in code.co_consts if isinstance(const, CodeType)):
        more = _used_by(inner, name)
        if more is None:
            return None
        found |= more
    return frozenset(found)


def _attributes(value: Any) -> dict[str, Any]:
    """An object's own, in its dict and in its slots."""
    found = dict(getattr(value, "__dict__", None) or {})
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                found[name] = getattr(value, name)
    return found


def named_by(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """What a function's code reads from around it: its closure and the globals that it names."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if cell != CellType():  # a name that is bound later
            yield name, cell.cell_contents
    scope = function.__globals__
    yield from ((name, scope[name]) for name in _names(function.__code__).globals if name in scope)


def is_library(name: Any) -> bool:
    return str(name).split(".")[0] in LIBRARIES
