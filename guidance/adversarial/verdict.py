"""What a user's test of success says, sample by sample."""

from collections.abc import Callable

import torch
from torch import Tensor


def succeeded(success: Callable[[Tensor], Tensor], found: Tensor) -> Tensor:
    """success(found), (B,). Raises ValueError where it is no verdict for each sample."""
    value = success(found)
    if value.shape != (len(found),) or value.dtype != torch.bool:
        raise ValueError(
            f"success: got shape {tuple(value.shape)} of {value.dtype}, expected ({len(found)},) of torch.bool: one "
            "verdict per sample; compare, as in log_prob(x) > -0.5"
        )
    return value
