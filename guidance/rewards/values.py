"""What a reward returned, as a tensor of numbers in float32 or wider."""

from typing import Any

import torch
from torch import Tensor


def at_least_float32(values: Tensor, like: Tensor | None = None) -> Tensor:
    """`values` in float32 or wider, whatever they arrive in; integers in the dtype of `like` where that is wider.

    Rewards and their statistics live there: 512 rewards near 20 have, in half precision, a mean that is off by
    more than their spread.
    """
    floor = torch.float32
    if like is not None and not values.is_floating_point():
        floor = torch.promote_types(floor, like.dtype)
    return values.to(torch.promote_types(values.dtype, floor))


def as_values(what: str, values: Any, samples: Tensor) -> Tensor:
    """What the reward `what` returned for `samples` as a tensor, widened. Lists, tuples and arrays of one number
    a sample have no gradient; a tensor keeps its graph.

    Raises:
        ValueError: neither a tensor nor a sequence of numbers.
    """
    if isinstance(values, Tensor):
        return at_least_float32(values, samples)
    try:
        if isinstance(values, list | tuple):
            found = torch.tensor([float(value) for value in values], dtype=torch.float64)
        else:
            found = torch.as_tensor(values.__array__())
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{what}: got {type(values).__name__}, expected a tensor ({len(samples)},), or as many numbers in a "
            "list or an array: one value per sample"
        ) from error
    return at_least_float32(found.to(samples.device), samples)
