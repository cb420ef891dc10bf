"""Memos: tensors that modules keep among their own attributes, which calls made to measure must not leave behind."""

from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from ...solvers import Model

WATCHED = ("_parameters", "_buffers", "_modules")  # elsewhere


class Memos:
    """The tensors among the attributes of a model's modules as they are now, to be put back.

    A network that keeps what its first call computes (`if self.c is None: self.c = ...`) would keep it without a graph,
    and its parameters would get no gradient from the run that is measured for.
    """

    def __init__(self, model: Model) -> None:
        modules = {id(module): module for network in model.networks() for module in network.modules()}
        self.before = [(vars(module), _copied(vars(module))) for module in modules.values()]

    def put_back(self) -> bool:
        """Whether a tensor came, went or was replaced; counters and flags stay as they are now."""
        changed = False
        for now, before in self.before:
            for name in now.keys() | before.keys():
                value, (then, copy) = now.get(name), before.get(name, (None, None))
                if name in WATCHED or _same(_tensors(value), _tensors(copy)):
                    continue
                changed = True
                if name not in before:
                    del now[name]
                elif isinstance(then, dict):
                    then.clear()
                    then.update(copy)
                    now[name] = then
                elif isinstance(then, list):
                    then[:] = copy
                    now[name] = then
                else:
                    now[name] = then
        return changed


def _copied(attributes: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Each attribute with a copy of what is changed in place: dicts and lists, also one inside another."""
    return {
        name: (value, tree_map(lambda leaf: leaf, value) if isinstance(value, dict | list) else value)
        for name, value in attributes.items()
        if name not in WATCHED
    }


def _holder(value: Any) -> bool:
    return isinstance(value, dict | list | tuple) and bool(value)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)] if _holder(value) else []


def _same(some: list[Tensor], others: list[Tensor]) -> bool:
    return len(some) == len(others) and all(a is b for a, b in zip(some, others, strict=True))
