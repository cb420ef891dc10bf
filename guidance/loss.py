"""Loss: what is minimised of a sample."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

Loss = Callable[[Any], Tensor]  # (B, ...) to (B,): a sample's loss never depends on its batch mates


def check_loss(value: object, batch: int, name: str = "loss") -> None:
    """Raise ValueError unless a loss gave one value for each sample of a batch: (B,)."""
    if not isinstance(value, Tensor):
        raise ValueError(
            f"{name}: got {type(value).__name__}, expected a tensor ({batch},): one value per sample; return a "
            "tensor computed from x"
        )
    if value.shape != (batch,):
        raise ValueError(
            f"{name}: got shape {tuple(value.shape)}, expected ({batch},): one value per sample; reduce over "
            "every axis but the first"
        )


def check_graph(value: Tensor, to: str, instead: str) -> None:
    """Raise ValueError unless what a loss gave can be differentiated; `instead`: what would do without."""
    if not value.requires_grad:
        raise ValueError(
            f"loss: got values without a graph to {to}, expected differentiable ones; leave out `no_grad`, `detach` "
            f"and numpy in the loss, or {instead}"
        )
