"""The best of what an attack has seen, sample by sample."""

import torch
from torch import Tensor

from ...solvers.broadcast import per_sample
from .threat_model import Points


class Best:
    """The tensors of least finite loss so far, sample by sample, and the turn that found them."""

    def __init__(self, tensors: Points) -> None:
        self.tensors = tensors
        self.loss = tensors[0].new_full((len(tensors[0]),), torch.inf, dtype=torch.float64)
        self.turn = torch.zeros_like(self.loss, dtype=torch.long)

    def offer(self, loss: Tensor, tensors: Points, turn: int) -> None:
        lower = loss.isfinite() & (loss < self.loss)
        self.loss, self.turn = torch.where(lower, loss, self.loss), torch.where(lower, turn, self.turn)
        self.tensors = chosen_rows(lower, tensors, self.tensors)


def chosen_rows(where: Tensor, new: Points, old: Points) -> Points:
    """Sample by sample the new or the old."""
    return tuple(torch.where(per_sample(where, n), n, o) for n, o in zip(new, old, strict=True))
