"""PipelineNoise: the noise of a plan as diffusers' schedulers draw theirs, from the pipeline's generator."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..instructions import Combine
from ..noise import Noise
from ..plan import Plan

Generators = torch.Generator | Sequence[torch.Generator] | None


@dataclass(eq=False)
class PipelineNoise(Noise):
    """Slots in the order in which the plan first asks for them; one that it asks for again is kept till then.

    Attributes:
        generator: of the call that is being made: one, one for each sample, or None for PyTorch's own.
        dtype: in which it draws: the pipeline's.
        left: how often each slot will still be asked for.
    """

    left: dict[int, int]
    generator: Generators = None
    dtype: torch.dtype = torch.float32
    kept: dict[int, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, plan: Plan) -> "PipelineNoise":
        """For one run of `plan`."""
        return cls(
            dict(Counter(s for op in plan.instructions if isinstance(op, Combine) for _, s in op.noise))
        )

    def draw_from(self, generator: Generators, dtype: torch.dtype) -> None:
        """The generator and type of the next draws."""
        self.generator, self.dtype = generator, dtype

    def check(self, slots: int, like: Tensor) -> None:
        """It serves any."""

    def __call__(self, slot: int, like: Tensor) -> Tensor:
        self.left[slot] -= 1
        value = self.kept.pop(slot, None)
        if value is None:
            value = drawn(like.shape, self.generator, like.device, self.dtype).to(like)
        if self.left[slot]:
            self.kept[slot] = value
        return value


def drawn(shape: torch.Size, generator: Generators, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Standard normal numbers where the generator lives, brought to `device`; of several, a sample from each."""
    if isinstance(generator, Sequence):
        if len(generator) == 1:
            return drawn(shape, generator[0], device, dtype)
        if len(generator) != shape[0]:
            raise ValueError(
                f"generator: got {len(generator)}, expected one, or one for each of {shape[0]} samples; pass that many"
            )
        one = torch.Size((1, *shape[1:]))
        return torch.cat([drawn(one, each, device, dtype) for each in generator])
    where = device if generator is None else generator.device
    return torch.randn(shape, generator=generator, device=where, dtype=dtype).to(device)
