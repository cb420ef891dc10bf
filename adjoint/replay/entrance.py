"""Entrance: the alias under which a tensor enters one network call of a forward pass.

The graph of such a call is looked at and dropped. If something of it is kept and used (features that a forward
hook caught, a loss on them), the gradient comes back to the alias, and must not end there: the state has a
history that the graph of the call does not show.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ...solvers import Call


class _Anchor(torch.autograd.Function):
    """Nothing, as a function of everything that enters a run: whoever differentiates at any of that comes by here."""

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        ctx.count = len(inputs)
        return torch.zeros(())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, ...]:
        return (None,) * ctx.count


class _Entrance(torch.autograd.Function):
    """The identity, whose derivative is refused unless the call's own gradient is being taken."""

    @staticmethod
    def forward(ctx: Any, entry: "Entry", value: Tensor, anchor: Tensor) -> Tensor:
        ctx.entry = entry
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None, None]:
        if not ctx.entry.open:
            raise ctx.entry.error()
        return None, None, None


Entrance: Any = _Entrance._backward_cls  # type: ignore[attr-defined]  # the node, as a walk meets it


class Entry:
    """How tensors enter `call` in the forward pass.

    Args:
        anchor: `anchor(inputs)` of the run's inputs; None where nothing that enters requires grad.

    Attributes:
        open: whether it is the call's own gradient that is being taken.
    """

    def __init__(self, call: Call, anchor: Tensor | None) -> None:
        self.call, self.anchor, self.open = call, anchor, False

    def __call__(self, value: Tensor) -> Tensor:
        if self.anchor is None:
            return value.detach()
        return _Entrance.apply(self, value.detach(), self.anchor)  # type: ignore[no-any-return]

    @contextmanager
    def passing(self) -> Iterator[None]:
        """While the call's own gradient is taken from its graph, instead of from a replay's."""
        self.open = True
        try:
            yield
        finally:
            self.open = False

    def error(self) -> RuntimeError:
        """What to raise where a gradient comes back by another way than the call's output."""
        return RuntimeError(
            f"network call {self.call.index} of step {self.call.step}: got a loss on something caught inside the "
            "network (by a forward hook?), expected one on the sample and on states of the run; a strategy that "
            "replays calls would lose its gradient; use Direct() or Checkpoint(mechanism=Mechanism.REGION)"
        )


def anchor(inputs: list[Tensor]) -> Tensor:
    """A scalar that depends on all of `inputs`, for `Entry`."""
    with torch.enable_grad():
        return _Anchor.apply(*inputs)  # type: ignore[no-any-return]


def alias(value: Tensor) -> Tensor:
    """A detached leaf in the place of `value`: how tensors enter a replay."""
    return value.detach().requires_grad_()
