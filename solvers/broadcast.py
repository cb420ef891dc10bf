"""per_sample: one number for each sample, shaped to meet a state."""

from torch import Tensor


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """`values` (B,) or () as (B, 1, ..., 1) or (1, 1, ..., 1) over `like` (B, ...); dtype and device stay."""
    return values.reshape(-1, *(1,) * (like.ndim - 1))
