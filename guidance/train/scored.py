"""A reward as the trainer calls it: counted, timed, and checked at every call."""

import time
from typing import Any

import torch
from torch import Tensor

from ..rewards.base import RewardFunction


class Scored:
    """`reward(samples, context)`, refused where its shape or its graph is wrong.

    A value that is not finite is noted in `trouble` and replaced by 0 until the trainer, on all processes at
    once, refuses the step: raised here, it would leave the others waiting.
    """

    def __init__(self, reward: RewardFunction, name: str = "reward") -> None:
        self.reward, self.name = reward, name
        self.queries, self.seconds = 0, 0.0
        self.trouble: str | None = None

    def __call__(self, x: Tensor, context: Any = None) -> Tensor:
        start = time.perf_counter()
        try:
            value = self.reward(x, context)
        except FloatingPointError as error:  # a `Reward` looks for itself
            self.trouble = self.trouble or f"{self.name}: {error}"
            value = x.flatten(1).sum(1) * 0
        self.seconds += time.perf_counter() - start
        self.queries += len(x)
        if not isinstance(value, Tensor) or value.shape != (len(x),):
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"{self.name}: got {got}, expected a tensor of shape ({len(x)},), one value per sample; "
                "reduce over every axis but the first"
            )
        if torch.is_grad_enabled() and x.requires_grad and not value.requires_grad:
            raise ValueError(
                f"{self.name}: got values without a graph, expected a differentiable reward: this objective "
                "needs its gradient; drop no_grad, detach and numpy from it, or take an objective that needs "
                "none, such as DDPO"
            )
        finite = torch.isfinite(value.detach())
        if bool(finite.all()):
            return value
        place = int((~finite).nonzero()[0])
        self.trouble = (
            self.trouble or f"{self.name}: {value.detach()[place].item()} for sample {place} of {len(x)}"
        )
        return torch.where(finite, value, 0)
