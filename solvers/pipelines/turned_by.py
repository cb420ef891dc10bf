"""What the turns of a pipeline's loop compute with: an argument that they leave aside is told by two openings."""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from ..kinds import described
from .compiled import PipelineCode
from .opened import OpenedLoop

# where an argument that the turns leave aside is of use
ELSEWHERE = {
    "image": "take found.encode(image) and noise as x", "video": "take found.encode(video) and noise as x",
    "generator": "take found.draw(generator) as x",
}  # fmt: skip


def read_by_turns(loop: OpenedLoop) -> dict[str, Any]:
    """What a turn reads of what stands before the loop: its variables, but the state that it is given; of the pipeline
    what the turn, and the properties and methods that it asks for, name; what the call wrote on the networks.
    """
    code, variables = loop.code, loop.variables
    given = {code.source.state, "self"}
    found = {
        name: variables[name] for name in code.reads[code.turn] if name in variables and name not in given
    }
    own, held = loop.pipe, vars(loop.pipe)
    scheduler = code.source.scheduler.removeprefix("self.")
    named = {name for name in _named(type(own), code.source.parts) if name in held and name != scheduler}
    return {**found, **{f"self.{name}": held[name] for name in named}, "written": loop.written}


def alike(one: Any, other: Any) -> bool:
    """Whether two values are the same, tensor by tensor."""
    return _alike(one, other, set())


def same_turns(one: OpenedLoop, other: OpenedLoop) -> bool:
    """Whether the turns of both read the same. What was drawn by a generator counts, not the generator."""

    def drawn(loop: OpenedLoop) -> Any:
        return tree_map(lambda leaf: None if isinstance(leaf, torch.Generator) else leaf, read_by_turns(loop))

    return alike(drawn(one), drawn(other))


def left_aside(code: PipelineCode, name: str, value: Any, starts: bool, given: bool = False) -> str:
    """What is said of an argument that the turns do not compute with.

    Args:
        starts: whether the start of the loop depends on it.
        given: whether it stood in the call of from_diffusers, and requires grad.
    """
    where = (
        f"{'enters only the start of' if starts else 'no turn computes with in'} {code.source.name}'s loop"
    )
    instead = next((take for word, take in ELSEWHERE.items() if word in name and starts), "")
    if given:
        take = f", and {instead}" if instead else ""
        return (
            f"from_diffusers: got {name}={described(value)} that requires grad, which {where}, expected no grad there; "
            f"pass it detached{take}"
        )
    return (
        f"cond: got {name}={described(value)}, which {where}, expected what its turns compute with; "
        f"{instead + ', or ' if instead else ''}give it to from_diffusers(pipe, {name}=...)"
    )


def tensors_asking(turn: Any) -> list[Tensor]:
    """Those that require grad."""
    return [each for each in tree_leaves(turn) if isinstance(each, Tensor) and each.requires_grad]


def probes(value: Any) -> list[Any]:
    """Other values of a number, or of a list of them: some values do as others, as times within one step do."""
    leaves, form = tree_flatten(value)
    if not leaves or not all(_is_number(each) for each in leaves):
        return []
    return [tree_unflatten([number for _ in leaves], form) for number in (0.0, 0.5, 1.0, 7.5)]


def _is_number(leaf: Any) -> bool:
    if isinstance(leaf, Tensor):
        return not leaf.ndim
    return isinstance(leaf, float | int) and not isinstance(leaf, bool)


def unwrapped_form(leaf: Any) -> Any:
    """A plain tensor of the shape and type of one that a transform has wrapped, of numbers in [0, 1]."""
    if not isinstance(leaf, Tensor):
        return leaf
    count = leaf.numel()
    numbers = torch.linspace(0.0, 1.0, count, device=leaf.device, dtype=torch.float32)
    return numbers.reshape(leaf.shape).to(leaf.dtype)


def _named(kind: type, names: Iterable[str]) -> set[str]:
    """The names, and those in the properties and methods of `kind` that are among them."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        asked: Any = inspect.getattr_static(kind, name, None)
        function = getattr(asked, "fget", asked)
        waiting += _names_in(getattr(inspect.unwrap(function), "__code__", None))
    return found


def _names_in(code: Any) -> Iterator[str]:
    if code is not None:
        yield from code.co_names
        for each in code.co_consts:
            if inspect.iscode(each):
                yield from _names_in(each)


def _alike(one: Any, other: Any, seen: set[tuple[int, int]]) -> bool:
    if one is other or (id(one), id(other)) in seen:
        return True
    seen.add((id(one), id(other)))
    leaves, form = tree_flatten(one)
    others, other_form = tree_flatten(other)
    if form != other_form:
        return False
    return all(_same(a, b, seen) for a, b in zip(leaves, others, strict=True))


def _same(one: Any, other: Any, seen: set[tuple[int, int]]) -> bool:
    if one is other:
        return True
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return isinstance(one, Tensor) and isinstance(other, Tensor) and _equal(one.detach(), other.detach())
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Generator):
        return torch.equal(one.get_state(), other.get_state())
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    if type(one).__eq__ is not object.__eq__ and not is_dataclass(one):
        return bool(one == other)
    if is_dataclass(one):
        return all(_alike(getattr(one, f.name), getattr(other, f.name), seen) for f in fields(one))
    mine, theirs = getattr(one, "__dict__", None), getattr(other, "__dict__", None)
    return mine is not None and theirs is not None and _alike(dict(mine), dict(theirs), seen)


def _equal(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype or one.device != other.device:
        return False
    return bool(((one == other) | ((one != one) & (other != other))).all())


def rest_of(cond: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The rest of it."""
    return {each: value for each, value in cond.items() if each != name}
