"""Choices that all processes share: which samples form a minibatch, which steps are trained."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .objective import World


def minibatches(size: int, count: int, world: World, generator: torch.Generator) -> list[Tensor]:
    """`count` random index sets of equal size over 0 .. size - 1, this process's part of a split of all samples.

    Every run of `count` neighbours is dealt out at random, one to each set, so that one process with the whole batch and several
    with parts of it deal the same.
    """
    if count < 1 or size % count:
        raise ValueError(f"minibatches: got {count} for {size} samples on a process, expected a divisor of {size}")
    dealt = torch.rand(world.size * size // count, count, generator=generator).argsort(1)
    mine = dealt[world.rank * (size // count) : (world.rank + 1) * (size // count)].flatten()
    return [(mine == k).nonzero().flatten() for k in range(count)]


def some(steps: Sequence[int], count: int, generator: torch.Generator) -> list[int]:
    """`count` of `steps`, drawn without replacement, in order."""
    order = torch.randperm(len(steps), generator=generator)[:count]
    return [steps[k] for k in sorted(order.tolist())]
