"""World: this process among its peers, and choices that come out the same on every process.

A batch is spread over `size` processes, each with an equal part in the order of their ranks. What depends on all
samples (advantages, a mean) is computed from the gathered whole, and each process takes its own part back; what
is chosen at random is drawn from a generator that all processes seed alike.
"""

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

    def whole(self, values: Tensor) -> Tensor:
        """`gather` of a batch, (size B, ...); ValueError where the processes' batches differ in size."""
        if self.size == 1:
            return values
        gathered = self.gather(values)
        sizes = self.gather(torch.tensor([len(values)], device=values.device))
        if len(gathered) != self.size * len(values) or bool((sizes != len(values)).any()):
            raise ValueError(
                f"processes: got {len(gathered)} samples in batches of {sizes.tolist()}, expected equal "
                "batches; drop the last incomplete one"
            )
        return gathered

    def own(self, whole: Tensor) -> Tensor:
        """This process's part of what `whole` gave."""
        size = len(whole) // self.size
        return whole[self.rank * size : (self.rank + 1) * size]


def minibatches(size: int, count: int, world: World, generator: torch.Generator) -> list[Tensor]:
    """This process's part of a random split of all samples: `count` index sets of equal size over 0 .. size - 1.

    Of every `count` neighbours each set gets one, at random, so that one process with the whole batch and
    several with parts of it deal the same.
    """
    if count < 1 or size % count:
        raise ValueError(
            f"minibatches: got {count} for {size} samples on a process, expected a divisor of {size}"
        )
    dealt = torch.rand(world.size * size // count, count, generator=generator).argsort(1)
    mine = world.own(dealt).flatten()
    return [(mine == k).nonzero().flatten() for k in range(count)]


def draw_steps(steps: Sequence[int], count: int, generator: torch.Generator) -> list[int]:
    """`count` of `steps`, drawn without replacement, in order."""
    order = torch.randperm(len(steps), generator=generator)[:count]
    return [steps[k] for k in sorted(order.tolist())]
