"""What the network computes in: its own dtype, or bfloat16 under autocast."""

from enum import Enum
from typing import Any

import torch
from torch import Tensor

from ...solvers import Model
from .wrapped import Wrapped, within


class Precision(Enum):
    """What the network computes in. States, log-probabilities, rewards, weights and gradients stay float32 or wider."""

    FULL = None
    BF16 = torch.bfloat16

    def around(self, model: Model) -> Model:
        """`model` with its network calls in this precision."""
        dtype = self.value
        return model if dtype is None else within(model, lambda inner: Autocast(inner, dtype))


class Autocast(Wrapped):
    """The model with its network calls under autocast; state in and prediction out keep their dtype."""

    def __init__(self, model: Model, dtype: torch.dtype) -> None:
        super().__init__(model)
        self.dtype = dtype

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        with torch.autocast(x.device.type, self.dtype):
            return self.model(x, t, cond).to(x.dtype)
