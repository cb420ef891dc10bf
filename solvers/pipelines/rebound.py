"""What a pipeline computes of its conditioning once, entering every network call as if computed there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class OnceComputed:
    """Tensors `outputs` = f(`inputs`), with their graph, and f itself.

    At each network call other tensors of the same values stand in for the inputs: a replay differentiates a call by
    itself. `at` gives the outputs as functions of those, and no f is computed again: its graph is kept and walked.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    again: Callable[[Sequence[Tensor]], Sequence[Tensor]]

    def at(self, stand_ins: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The outputs, of tensors with the values of `inputs`."""
        return _Pulled.apply(self, *stand_ins)  # type: ignore[no-any-return]


class _Pulled(torch.autograd.Function):
    """The values of `outputs`; the VJP through the kept graph."""

    @staticmethod
    def forward(ctx: Any, once: OnceComputed, *stand_ins: Tensor) -> tuple[Tensor, ...]:
        ctx.once = once
        ctx.save_for_backward(*stand_ins)
        return tuple(each.detach() for each in once.outputs)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Any, ...]:  # type: ignore[override]
        once, inputs, outputs = ctx.once, ctx.once.inputs, ctx.once.outputs
        second = (
            torch.is_grad_enabled()
        )  # a gradient that is to be differentiated: f is computed again, with a graph
        if second:
            inputs = ctx.saved_tensors
            outputs = once.again(inputs)
        used = [
            (out, g)
            for out, g in zip(outputs, cotangents, strict=True)
            if g is not None and out.requires_grad
        ]
        wanted = [each for each in inputs if each.requires_grad]
        found = torch.autograd.grad(
            [out for out, _ in used],
            wanted,
            [g for _, g in used],
            retain_graph=True,
            create_graph=second,
            allow_unused=True,
        )
        gradients = iter(found)
        return None, *(next(gradients) if each.requires_grad else None for each in inputs)
