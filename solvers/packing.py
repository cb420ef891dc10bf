"""Packing: a state of several tensors is one tensor inside; the caller and his network see theirs.

Joint audio and video, text and image latents, position and momentum: whatever nesting of dicts, lists and tuples
a state comes in, a plan is linear in it, so that all its leaves can lie side by side in one tensor (B, D). Plans,
noise, strategies and coefficients per sample then need to know nothing of trees.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, keystr, tree_flatten, tree_flatten_with_path, tree_unflatten

from .instructions import Apply, Evaluate, Instruction
from .model import Model
from .network_calls import NetworkCall, around
from .plan import Plan

State = (
    Any  # a tensor (B, ...), or any nesting of dicts, lists and tuples of such tensors with one batch axis
)


class Packing(ABC):
    """How the states of one run become one tensor each, and back."""

    @abstractmethod
    def pack(self, tree: State, what: str = "x", lead: int = 0) -> Tensor:
        """`tree` as one tensor; `lead` axes come before the batch. Raises ValueError naming the leaf that differs."""

    @abstractmethod
    def unpack(self, packed: Tensor, lead: int = 0) -> State:
        """What `pack` made one tensor of."""

    @abstractmethod
    def model(self, model: Model) -> Model:
        """`model` over packed states; its networks see the caller's."""

    @abstractmethod
    def plan(self, plan: Plan) -> Plan:
        """`plan` over packed states; the functions of its Apply instructions see the caller's."""


@dataclass(frozen=True)
class AsIs(Packing):
    """A state that is one tensor."""

    def pack(self, tree: State, what: str = "x", lead: int = 0) -> Tensor:
        if not isinstance(tree, Tensor):
            raise ValueError(f"{what}: got {type(tree).__name__}, expected a tensor, as x is")
        return tree

    def unpack(self, packed: Tensor, lead: int = 0) -> State:
        return packed

    def model(self, model: Model) -> Model:
        return model

    def plan(self, plan: Plan) -> Plan:
        return plan


@dataclass(frozen=True)
class Joint(Packing):
    """Leaves (B, ...) side by side in (B, D), in the order of their names, so that it does not matter how a
    dict was filled. They share one device and, once packed, one dtype.

    Attributes:
        spec: of the tree.
        names: of the leaves, in the tree's order: where each is found, as in x['video'][0].
        shapes: of one sample's leaves, in the same order.
        order: the leaves' places in `names`, sorted by name.
        batch: B.
    """

    spec: TreeSpec
    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    order: tuple[int, ...]
    batch: int

    @classmethod
    def of(cls, tree: State) -> "Joint":
        """How to pack states like `tree`. Raises ValueError naming the leaf that cannot be one of them."""
        found, spec = tree_flatten_with_path(tree)
        names, leaves = tuple([keystr(path) for path, _ in found]), [leaf for _, leaf in found]
        if not leaves:
            raise ValueError(f"x: got {tree!r}, expected at least one tensor (B, ...)")
        for name, leaf in zip(names, leaves, strict=True):
            if not isinstance(leaf, Tensor):
                raise ValueError(
                    f"x{name}: got {type(leaf).__name__}, expected a tensor (B, ...), or dicts, lists and tuples of "
                    "them; register a container of your own with torch.utils._pytree"
                )
            if leaf.ndim < 1 or not leaf.is_floating_point():
                raise ValueError(
                    f"x{name}: got shape {tuple(leaf.shape)} of {leaf.dtype}, expected a floating point (B, ...) "
                    "leaf with the batch axis first"
                )
            if len(leaf) != len(leaves[0]) or leaf.device != leaves[0].device:
                raise ValueError(
                    f"x{name}: got a batch of {len(leaf)} on {leaf.device}, expected {len(leaves[0])} on "
                    f"{leaves[0].device} as x{names[0]}; give all leaves one batch and one device"
                )
        shapes = tuple([leaf.shape[1:] for leaf in leaves])
        order = tuple(sorted(range(len(names)), key=names.__getitem__))
        return cls(spec, names, shapes, order, len(leaves[0]))

    def pack(self, tree: State, what: str = "x", lead: int = 0) -> Tensor:
        leaves = self._leaves(tree, what)
        for name, shape, leaf in zip(self.names, self.shapes, leaves, strict=True):
            fits = isinstance(leaf, Tensor) and leaf.shape[lead:] == (self.batch, *shape)
            if not fits or leaf.shape[:lead] != leaves[0].shape[:lead]:
                got = tuple(leaf.shape) if isinstance(leaf, Tensor) else type(leaf).__name__
                axes = [*leaves[0].shape[:lead]] if fits else ["K"] * lead
                want = ", ".join(map(str, (*axes, self.batch, *shape)))
                raise ValueError(f"{what}{name}: got {got}, expected ({want}), shaped as x{name}")
        rows = [
            leaves[k].reshape(*leaves[k].shape[: lead + 1], math.prod(self.shapes[k])) for k in self.order
        ]
        return torch.cat(rows, lead + 1)  # in the widest of their dtypes

    def unpack(self, packed: Tensor, lead: int = 0) -> State:
        leaves: list[Tensor] = [packed] * len(self.order)
        start = 0
        for k in self.order:
            size = math.prod(self.shapes[k])
            rows = packed.narrow(lead + 1, start, size)
            # a network may expect what it is used to, and a caller may write to his result: no views of one another
            leaves[k] = rows.reshape(*packed.shape[: lead + 1], *self.shapes[k]).contiguous()
            start += size
        return tree_unflatten(leaves, self.spec)

    def model(self, model: Model) -> Model:
        return around(model, _OnTrees(self))

    def plan(self, plan: Plan) -> Plan:
        plan.check_numbers("a joint state")  # maps are written for a state of one tensor
        if not plan.functions and not any(isinstance(op, Apply) for op in plan.instructions):
            return plan
        return replace(plan, instructions=tuple([self._on_trees(op) for op in plan.instructions]))

    def _leaves(self, tree: State, what: str) -> list[Any]:
        """The leaves of `tree` in our order; a dict may have been filled in another."""
        leaves, spec = tree_flatten(tree)
        if spec == self.spec:
            return leaves
        found = {keystr(path): leaf for path, leaf in tree_flatten_with_path(tree)[0]}
        if set(found) != set(self.names):
            missing, extra = set(self.names) - set(found), set(found) - set(self.names)
            raise ValueError(
                f"{what}: got {_listed(found)}, expected the leaves of x, {_listed(self.names)}"
                + (f"; give {_listed(missing)}" if missing else f"; leave out {_listed(extra)}")
            )
        return [found[name] for name in self.names]

    def _on_trees(self, op: Instruction) -> Instruction:
        """`op`, whose function sees the caller's states."""
        if isinstance(op, Evaluate) and op.then is not None:
            return replace(op, then=_ThenOnTrees(self, op.then))
        return self._apply(op) if isinstance(op, Apply) else op

    def _apply(self, op: Apply) -> Apply:
        def fn(*packed: Tensor) -> Any:
            found = op.fn(*(self.unpack(value) for value in packed))
            if len(op.outs) == 1:
                return self.pack(found, f"what {op.fn} returned")
            return tuple([self.pack(value, f"what {op.fn} returned") for value in found])

        return replace(op, fn=fn)


@dataclass(frozen=True)
class _OnTrees(NetworkCall):
    """A network of trees called on what its states are packed into."""

    packing: Joint

    def __call__(self, network: Any, *args: Any, **named: Any) -> Tensor:
        # the state is the first of its form, since a network may take t before it
        given = dict(enumerate(args)) | named
        place = next((key for key, value in given.items() if self._packed(value)), next(iter(given)))
        x = given[place]
        given[place] = self.packing.unpack(x)
        try:
            out = network(*[given[k] for k in range(len(args))], **{name: given[name] for name in named})
        except Exception as error:
            error.add_note(
                f"the network was called on a joint state with the leaves {_listed(self.packing.names)}, as x has "
                "them; registers of a plan would have exactly the names of plan.entry"
            )
            raise
        return replace(self.packing, batch=len(x)).pack(
            out, "network output"
        )  # guidance may call on 2B at once

    def _packed(self, value: Any) -> bool:
        size = sum(map(math.prod, self.packing.shapes))
        return isinstance(value, Tensor) and value.ndim == 2 and value.shape[1] == size


@dataclass(frozen=True)
class _ThenOnTrees:
    """A function of trees called on what they are packed into."""

    packing: Joint
    then: Callable[[State], State]

    def __call__(self, packed: Tensor) -> Tensor:
        # the rows of several steps may come at once
        packing = replace(self.packing, batch=len(packed))
        return packing.pack(self.then(packing.unpack(packed)), f"what {self.then} returned")


def packing_of(x: State) -> Packing:
    """How states like x are packed."""
    return AsIs() if isinstance(x, Tensor) else Joint.of(x)


def _listed(names: Any) -> str:
    return ", ".join(sorted(name or "a tensor" for name in names)) or "nothing"
