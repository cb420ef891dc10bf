"""A loss without a gradient, given one by finite differences at the sample."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...solvers import Addressed
from ...solvers.broadcast import per_sample
from ..loss import Loss


@dataclass(frozen=True, eq=False)
class BlackBox:
    """loss(x) with the gradient g = mean_q [loss(x + s d_q) - loss(x - s d_q)] / (2 s) d_q, d_q ~ N(0, I).

    Exact in expectation for quadratic losses, of variance O(d/draws) for d numbers a sample. The sampler in
    front of it is differentiated exactly: the paper's hybrid gradient.

    Args:
        loss: called without a graph.
        noise: source of directions. Each call takes fresh slots: an object counts its calls, and its n-th
            always sees the same directions.
        draws: directions a call.  std: s.

    Source: Tang et al. 2024, arXiv 2405.18881, section 4. Cost: 1 + 2 draws calls of the loss.
    """

    loss: Loss
    noise: Addressed
    draws: int = 16
    std: float = 0.01
    _slots: Iterator[int] = field(default_factory=itertools.count, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.draws < 1 or not self.std > 0:
            raise ValueError(
                f"BlackBox: got draws={self.draws}, std={self.std}, expected draws >= 1 and std > 0: else there "
                "is no gradient"
            )

    def __call__(self, x: Tensor) -> Tensor:
        point = x.detach()
        with torch.no_grad():
            value, slope = self.loss(point), torch.zeros_like(point)
            for _ in range(self.draws):
                direction = self.noise(next(self._slots), point)
                change = self.loss(point + self.std * direction) - self.loss(point - self.std * direction)
                slope += per_sample(change, x) * direction
            slope /= 2 * self.std * self.draws
        return value + (slope * (x - point)).flatten(1).sum(1)  # the value, with the slope for its gradient
