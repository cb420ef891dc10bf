"""A pipeline's networks, lent to its call: what the call writes on them is noted, and taken back however it ends."""

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

INNER = ("_modules", "_parameters", "_buffers")
# Two threads that lend one network would each take the other's writes for what stood there before.
_LENDING = threading.RLock()


class Gone:
    """Stands for an attribute that was taken away."""


GONE = Gone()


@dataclass(frozen=True)
class Written:
    """What a call wrote on one module.

    Attributes:
        attributes: by name, what it put there; `GONE` for what it took away.
        children: the same of its parts.
    """

    attributes: Mapping[str, Any]
    children: Mapping[str, Any]


Changes = dict[str, dict[str, Written]]  # by network, by the module's path in it


@dataclass(frozen=True, eq=False)
class _Module:
    """A module as it stood."""

    module: nn.Module
    attributes: dict[str, Any]
    children: dict[str, Any]

    @staticmethod
    def of(module: nn.Module) -> "_Module":
        return _Module(module, _attributes(module), dict(module._modules))

    def taken_back(self) -> Written:
        """Put it back, and say what was written."""
        now = Written(
            _changed(self.attributes, _attributes(self.module)), _changed(self.children, self.module._modules)
        )
        _put(vars(self.module), self.attributes, now.attributes)
        _put(self.module._modules, self.children, now.children)
        return now


@dataclass(frozen=True, eq=False)
class Lent:
    """A pipeline's networks as they stood.

    Attributes:
        changes: afterwards, what was written on the networks that the loop calls.
    """

    loop: Mapping[str, Mapping[str, _Module]]
    modes: tuple[tuple[nn.Module, bool], ...]
    types: tuple[tuple[nn.Parameter, torch.dtype, bool], ...]
    changes: Changes = field(default_factory=dict)

    def take_back(self) -> None:
        """Everything as it stood: attributes of the loop's networks, and of all of them train mode, the types of
        weights (some VAEs are cast for the time of a call) and whether they require a gradient.
        """
        for name, modules in self.loop.items():
            found = {path: each.taken_back() for path, each in modules.items()}
            written = {path: each for path, each in found.items() if each.attributes or each.children}
            if written:
                self.changes[name] = written
        for module, training in self.modes:
            module.training = training
        for weight, dtype, asking in self.types:
            if weight.dtype != dtype:
                weight.data = weight.data.to(dtype)
            if weight.requires_grad != asking:
                weight.requires_grad_(asking)


@contextmanager
def lent(pipe: Any, loop: Iterable[str]) -> Iterator[Lent]:
    """While a part of a pipeline's call runs.

    Args:
        loop: names of what the loop uses of the pipeline, networks among it: the call may prepare those for its turns,
            as perturbed-attention guidance puts attention processors into them.

    Cost: a look at every module and weight, before and after.
    """
    networks = {name: each for name, each in vars(pipe).items() if isinstance(each, nn.Module)}
    with _LENDING:
        held = Lent(
            {
                name: {
                    path: _Module.of(m) for path, m in networks[name].named_modules(remove_duplicate=False)
                }
                for name in sorted(networks.keys() & set(loop))
            },
            tuple((module, module.training) for each in networks.values() for module in each.modules()),
            tuple((w, w.dtype, w.requires_grad) for each in networks.values() for w in each.parameters()),
        )
        try:
            yield held
        finally:
            held.take_back()


def _attributes(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if name not in INNER}


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: now.get(name, GONE)
        for name in {**before, **now}
        if now.get(name, GONE) is not before.get(name, GONE)
    }


def _put(where: dict[str, Any], before: Mapping[str, Any], names: Iterable[str]) -> None:
    for name in names:
        if name in before:
            where[name] = before[name]
        else:
            del where[name]
