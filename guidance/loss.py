"""Loss: what is minimised of a sample."""

from collections.abc import Callable

from torch import Tensor

Loss = Callable[[Tensor], Tensor]  # (B, ...) to (B,): a sample's loss never depends on its batch mates
