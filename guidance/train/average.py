"""The running average of the trained weights, which evaluations see and `export` writes."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from .sharded import put, whole


class Average:
    """Exponential moving average of the trained weights: a <- decay a + (1 - decay) w after each optimiser step."""

    def __init__(self, weights: dict[str, Tensor], decay: float) -> None:
        self.weights = weights
        self.values = {name: value.detach().clone() for name, value in weights.items()}
        self._fold: Any = get_ema_multi_avg_fn(decay)

    def update(self) -> None:
        """Take the weights as they are now in."""
        with torch.no_grad():
            self._fold(list(self.values.values()), [value.detach() for value in self.weights.values()], None)

    @contextlib.contextmanager
    def swapped(self) -> Iterator[None]:
        """The average stands in the network, and the trained weights again afterwards, whatever happens."""
        kept = {name: value.detach().clone() for name, value in self.weights.items()}
        try:
            self._write(self.values)
            yield
        finally:
            self._write(kept)

    def _write(self, values: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in self.weights.items():
                value.copy_(values[name])

    def state(self) -> dict[str, Tensor]:
        """The averages by name, whole."""
        return {name: whole(value) for name, value in self.values.items()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Take back what `state` gave."""
        for name, value in self.values.items():
            put(value, state[name])
