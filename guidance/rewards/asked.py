"""Rewards asked for once and checked: shape, finiteness, and a gradient where one is needed."""

from typing import Any

import torch
from torch import Tensor

from .base import RewardFunction


def name_of(reward: Any) -> str:
    """What an error calls the reward."""
    return str(getattr(reward, "name", None) or getattr(reward, "__name__", None) or type(reward).__name__)


def evaluate_reward(
    reward: RewardFunction, samples: Tensor, context: Any = None, differentiable: bool = False
) -> Tensor:
    """reward(samples, context), (B,), floating point.

    Args:
        samples: (B, ...).
        differentiable: `samples` have a graph and the rewards must continue it; otherwise they are asked for
            without one.

    Raises:
        ValueError: another shape than (B,), or no gradient where one is needed. FloatingPointError: NaN or
            infinity.
    """
    with torch.set_grad_enabled(differentiable and torch.is_grad_enabled()):
        values = reward(samples if differentiable else samples.detach(), context)
    what = f"reward {name_of(reward)}"
    if not isinstance(values, Tensor) or values.shape != (len(samples),):
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(
            f"{what}: got {got}, expected a tensor ({len(samples)},): one value per sample; reduce over "
            "every axis but the first"
        )
    values = values if values.is_floating_point() else values.to(samples.dtype)
    if not bool(values.detach().isfinite().all()):
        bad = (~values.detach().isfinite()).nonzero().flatten().tolist()
        state = "finite" if bool(samples.detach().isfinite().all()) else "not finite themselves"
        raise FloatingPointError(
            f"{what}: got NaN or infinity for samples {bad[:8]} of {len(samples)}, expected finite values; "
            f"the samples are {state}"
        )
    if differentiable and samples.requires_grad and not values.requires_grad:
        raise ValueError(
            f"{what}: got values without a gradient at the samples, expected a differentiable reward; use "
            "DDPO or FlowGRPO, which need none"
        )
    return values if differentiable else values.detach()
