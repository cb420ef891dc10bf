"""The library's own products of matrices, out of reach of the caller's autocast."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def full_precision(like: Tensor) -> AbstractContextManager[object]:
    """Where autocast casts nothing on the device of `like`: it is meant for the network, and would make bfloat16 of
    the states and bases that are multiplied here.
    """
    kind = like.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()
