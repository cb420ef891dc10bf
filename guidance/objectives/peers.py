"""World: this process among its peers, and the choices and batches that all of them share."""

from collections.abc import Sequence

import torch
from torch import Tensor


class World:
    """This process among its peers: what objectives need to know of the others' samples. Alone by default."""

    size: int = 1
    rank: int = 0

    def gather(self, values: Tensor) -> Tensor:
        """`values` (B, ...) of all processes one behind the other, the same on every process."""
        return values


def everyone(world: World, values: Tensor) -> Tensor:
    """`values` of all processes, (size B, ...); ValueError where their batches differ in size."""
    if world.size == 1:
        return values
    gathered = world.gather(values)
    sizes = world.gather(torch.tensor([len(values)], device=values.device))
    if len(gathered) != world.size * len(values) or bool((sizes != len(values)).any()):
        raise ValueError(
            f"processes: got {len(gathered)} samples in batches of {sizes.tolist()}, expected equal batches; "
            "drop the last incomplete one"
        )
    return gathered


def own(world: World, gathered: Tensor) -> Tensor:
    """This process's part of what every process has."""
    size = len(gathered) // world.size
    return gathered[world.rank * size : (world.rank + 1) * size]


def minibatches(size: int, count: int, world: World, generator: torch.Generator) -> list[Tensor]:
    """`count` random index sets of equal size over 0 .. size - 1, this process's part of a split of all samples.

    Every run of `count` neighbours is dealt out at random, one to each set, so that one process with the
    whole batch and several with parts of it deal the same.
    """
    if count < 1 or size % count:
        raise ValueError(
            f"minibatches: got {count} for {size} samples on a process, expected a divisor of {size}"
        )
    dealt = torch.rand(world.size * size // count, count, generator=generator).argsort(1)
    mine = dealt[world.rank * (size // count) : (world.rank + 1) * (size // count)].flatten()
    return [(mine == k).nonzero().flatten() for k in range(count)]


def some(steps: Sequence[int], count: int, generator: torch.Generator) -> list[int]:
    """`count` of `steps`, drawn without replacement, in order."""
    order = torch.randperm(len(steps), generator=generator)[:count]
    return [steps[k] for k in sorted(order.tolist())]
