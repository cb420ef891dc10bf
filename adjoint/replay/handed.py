"""Gradients that were computed from detached leaves, handed back as functions of what the leaves stand for."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .hooks import hooks_suspended


class _Handed(torch.autograd.Function):
    """Values with a graph to `leaves`, as functions of `originals`, one for each leaf.

    The graph between a leaf and its original stays out: two originals may depend on one another, or be the same
    tensor, and each gradient is due at its own leaf alone.
    """

    @staticmethod
    def forward(
        ctx: Any, values: Sequence[Tensor], leaves: Sequence[Tensor], *originals: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.values, ctx.leaves = values, leaves
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*originals)
        return tuple(value.detach() for value in values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        again = torch.is_grad_enabled()  # whether this gradient, too, will be differentiated
        pairs = [(value, grad) for value, grad in zip(ctx.values, grads, strict=True) if grad is not None]
        cotangents = [grad.detach().requires_grad_(again) for _, grad in pairs]
        with hooks_suspended(ctx.leaves):
            found = torch.autograd.grad(
                [value for value, _ in pairs],
                ctx.leaves,
                cotangents,
                retain_graph=True,
                create_graph=again,
                allow_unused=True,
            )
        if not again:
            return None, None, *found
        originals = [*ctx.saved_tensors, *(grad for _, grad in pairs)]
        return None, None, *handed(found, [*ctx.leaves, *cotangents], originals)[: len(ctx.leaves)]


def handed(
    values: Sequence[Tensor | None], leaves: Sequence[Tensor], originals: Sequence[Tensor]
) -> list[Tensor | None]:
    """`values`, differentiable any number of times at `originals` by the graph that they have to `leaves`.

    Values that are None or constant stay as they are.
    """
    moving = [value for value in values if value is not None and value.requires_grad]
    if not moving:
        return list(values)
    given = iter(_Handed.apply(moving, leaves, *originals))  # type: ignore[arg-type]
    return [next(given) if value is not None and value.requires_grad else value for value in values]
