"""Rewards as objectives and the trainer ask for them: every answer checked, and where it is wrong, the reward named."""

import time
from typing import Any

import torch
from torch import Tensor

from .base import RewardFunction
from .values import as_values


def evaluate_reward(
    reward: RewardFunction, samples: Tensor, context: Any = None, differentiable: bool = False
) -> Tensor:
    """reward(samples, context), (B,), float32 or wider.

    Args:
        samples: (B, ...).
        differentiable: `samples` have a graph and the rewards must continue it; otherwise they are asked for
            without one.

    Raises:
        ValueError: another shape than (B,), or no gradient where one is needed. FloatingPointError: NaN or
            infinity.
    """
    with torch.set_grad_enabled(differentiable and torch.is_grad_enabled()):
        found = reward(samples if differentiable else samples.detach(), context)
    what = f"reward {_name_of(reward)}"
    values = as_values(what, found, samples)
    _check_shape(what, values, samples)
    broken = _broken(values)
    if broken:
        state = "finite" if bool(samples.detach().isfinite().all()) else "not finite themselves"
        raise FloatingPointError(
            f"{what}: got NaN or infinity for samples {broken[:8]} of {len(samples)}, expected finite values; "
            f"the samples are {state}"
        )
    if differentiable:
        _check_graph(what, values, samples)
    return values if differentiable else values.detach()


class MeteredReward:
    """`reward(samples, context)`, checked, counted and timed: what a trainer hands to its objective.

    A value that is not finite is noted in `trouble` and replaced by 0 until the trainer, on all processes at
    once, refuses the step: raised here, on one process, it would leave the others waiting.

    Attributes:
        queries: samples scored so far. seconds: that this took.
    """

    def __init__(self, reward: RewardFunction, name: str = "reward") -> None:
        self.reward, self.name = reward, name
        self.queries, self.seconds = 0, 0.0
        self.trouble: str | None = None

    def __call__(self, x: Tensor, context: Any = None) -> Tensor:
        start = time.perf_counter()
        try:
            found = self.reward(x, context)
        except FloatingPointError as error:  # a `Reward` looks for itself
            self._note(str(error))
            found = x.flatten(1).sum(1) * 0  # zeros with a graph
        self.seconds += time.perf_counter() - start
        self.queries += len(x)
        values = as_values(self.name, found, x)
        _check_shape(self.name, values, x)
        if torch.is_grad_enabled():
            _check_graph(self.name, values, x)
        broken = _broken(values)
        if not broken:
            return values
        self._note(f"{values[broken[0]].item()} for sample {broken[0]} of {len(x)}")
        return torch.where(torch.isfinite(values.detach()), values, 0)

    def take_trouble(self) -> str | None:
        """What was noted since the last time this was asked."""
        found, self.trouble = self.trouble, None
        return found

    def _note(self, trouble: str) -> None:
        self.trouble = self.trouble or f"{self.name}: {trouble}"  # the first is nearest to the cause


def _name_of(reward: Any) -> str:
    """What an error calls the reward."""
    return str(getattr(reward, "name", None) or getattr(reward, "__name__", None) or type(reward).__name__)


def _check_shape(what: str, values: Tensor, samples: Tensor) -> None:
    """Raise ValueError unless there is one value per sample."""
    if values.shape != samples.shape[:1]:
        raise ValueError(
            f"{what}: got {tuple(values.shape)}, expected a tensor ({len(samples)},): one value per sample; "
            "reduce over every axis but the first"
        )


def _check_graph(what: str, values: Tensor, samples: Tensor) -> None:
    """Raise ValueError where samples have a graph that the values do not continue."""
    if samples.requires_grad and not values.requires_grad:
        raise ValueError(
            f"{what}: got values without a gradient at the samples, expected a differentiable reward; use "
            "DDPO or FlowGRPO, which need none, or drop no_grad, detach and numpy from the reward"
        )


def _broken(values: Tensor) -> list[int]:
    """The samples whose value is NaN or infinite."""
    finite = values.detach().isfinite()
    return [] if bool(finite.all()) else (~finite).nonzero().flatten().tolist()
