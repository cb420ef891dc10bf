"""Networks of the same weights with other attributes: what a pipeline's call writes is written on these."""

import copy
import functools
import weakref
from collections.abc import Callable, Mapping
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import nn

from .lent import GONE, INNER, Written

COMPILED = "_orig_mod"  # where `torch.compile(network)` keeps the network


def viewed(network: nn.Module, written: Mapping[str, Written], name: str) -> nn.Module:
    """The network with what a call wrote on it: twins of the modules that it wrote on and of those around them, all
    else itself. Compiled modules around a change run as they are.

    Args:
        written: by the module's path in it. name: of the network, for messages.
    """
    if COMPILED in network._modules:
        inner = {path.removeprefix(COMPILED).removeprefix("."): each for path, each in written.items()}
        return viewed(network._modules[COMPILED], inner, name)  # type: ignore[arg-type]
    own = twin(network, name)
    within: dict[str, dict[str, Written]] = {}
    for path, each in written.items():
        if path:
            first, _, rest = path.partition(".")
            within.setdefault(first, {})[rest] = each
            continue
        for where, changed in ((vars(own), each.attributes), (own._modules, each.children)):
            for key, value in changed.items():
                where.pop(key, None)
                if value is not GONE:
                    where[key] = value
    for child, inner in within.items():
        module = own._modules.get(child)
        if module is not None:
            own._modules[child] = viewed(module, inner, f"{name}.{child}")
    return own


def castable(network: nn.Module) -> nn.Module:
    """The network, whose `to(dtype=...)` casts its weights for itself alone, differentiably: a pipeline casts a VAE for
    the time of a call, and the user's keeps its type.
    """
    own = copy.copy(network)
    vars(own)["to"] = functools.partial(_recast, weakref.ref(own), network)
    return own


def cast(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A twin of the network with its weights cast, differentiably."""
    own = twin(network, type(network).__name__)
    for name, child in own._modules.items():
        own._modules[name] = None if child is None else cast(child, dtype)
    for held in ("_parameters", "_buffers"):
        vars(own)[held] = {
            key: value.to(dtype) if value is not None and value.is_floating_point() else value
            for key, value in vars(network)[held].items()
        }
    vars(own)["to"] = functools.partial(_recast, weakref.ref(own), network)
    return own


def _recast(
    asked: Callable[[], nn.Module | None], network: nn.Module, *args: Any, **kwargs: Any
) -> nn.Module | None:
    """`network.to` of a network that stands for `network`: a type is its own, a device that of both."""
    own, said = asked(), (*args, *kwargs.values())
    dtypes = [each for each in said if isinstance(each, torch.dtype)]
    if not dtypes:
        network.to(*args, **kwargs)
    elif own is not None:
        vars(own).update({name: vars(cast(network, dtypes[0]))[name] for name in INNER})
    return own


def twin(module: nn.Module, name: str) -> nn.Module:
    """Another module of the same class, attributes, hooks, weights and parts, which may be replaced in it."""
    own = object.__new__(type(module))
    vars(own).update(vars(module))
    vars(own)["_modules"] = dict(module._modules)
    vars(own).update(
        {key: _rebound(value, module, own) for key, value in vars(module).items() if callable(value)}
    )
    if vars(own).get("_compiled_call_impl") is not None:
        vars(own)["_compiled_call_impl"] = None  # it would call the other
    if "forward" in vars(module) and vars(own)["forward"] is vars(module)["forward"]:
        raise ValueError(
            f"{name}: got a network whose `forward` is replaced by {_told(vars(module)['forward'])}, expected its "
            "class's own: its pipeline writes on it, which from_diffusers does on a copy, and this one would call the "
            "original; take the hooks off (group offloading), or compile the network as a whole"
        )
    return own


def _rebound(value: Any, module: nn.Module, own: nn.Module) -> Any:
    """A method or partial of `module` as that of `own`; itself where it is not, or cannot be told."""
    if isinstance(value, MethodType) and value.__self__ is module:
        return MethodType(value.__func__, own)
    if not (isinstance(value, functools.partial) and isinstance(value.func, FunctionType)):
        return value
    if value.func.__closure__ is not None or all(each is not module for each in value.args):
        return value
    mine = functools.partial(value.func, *(own if a is module else a for a in value.args), **value.keywords)
    vars(mine).update({key: _rebound(each, module, own) for key, each in vars(value).items()})
    return mine


def _told(value: Any) -> str:
    inner = value.func if isinstance(value, functools.partial) else value
    return getattr(inner, "__qualname__", type(inner).__name__)
