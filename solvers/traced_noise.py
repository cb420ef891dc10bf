"""Addressed noise inside torch.compile: an operator, since no tracer sees through the generator of its numbers."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .noise import Addressed, Noise, addressed_by


def traced_draw(noise: Noise, slot: int, like: Tensor) -> Tensor:
    """`noise(slot, like)`, while it is traced."""
    if isinstance(noise, Addressed):  # its address is a tensor: other seeds need no other graph
        return _addressed(noise.address, slot, like.shape, like.dtype, like.device, noise.on_cpu)
    return noise(slot, like)


def _draw(
    address: Tensor, slot: int, shape: Sequence[int], dtype: torch.dtype, device: torch.device, on_cpu: bool
) -> Tensor:
    like = torch.empty((), dtype=dtype, device=device).expand(list(shape))
    return addressed_by(address, on_cpu)(slot, like)


def _form(
    address: Tensor, slot: int, shape: Sequence[int], dtype: torch.dtype, device: torch.device, on_cpu: bool
) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=device)


# no CUDA graph can hold it: its generator is made anew for every draw
_addressed = torch.library.custom_op(
    "pullback::addressed", _draw, mutates_args=(), tags=(torch.Tag.cudagraph_unsafe,)
)
_addressed.register_fake(_form)
