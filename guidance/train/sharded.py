"""Tensors that may be sharded, a share on each process (FSDP 2): read and written whole."""

from typing import Any

import torch
from torch import Tensor


def whole(value: Tensor) -> Tensor:
    """A sharded tensor gathered (by all processes together), any other as it is."""
    gather: Any = getattr(value, "full_tensor", None)
    return value if gather is None else gather()


def put(value: Tensor, new: Tensor) -> None:
    """Write a whole tensor into `value`, which takes its own share where it is sharded."""
    mesh: Any = getattr(value, "device_mesh", None)
    with torch.no_grad():
        if mesh is None:
            value.copy_(new)
        else:
            from torch.distributed.tensor import distribute_tensor

            value.copy_(distribute_tensor(new.to(value.device), mesh, value.placements))  # pyright: ignore
