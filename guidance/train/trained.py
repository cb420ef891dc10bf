"""What is trained: the parameters by name, and their running average."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ...adjoint.parameters import named
from ...solvers import Model
from .adapter import whole


def trainable(model: Model) -> dict[str, Tensor]:
    """The model's parameters that require grad, by name, each once; half precision is widened to float32 in place.

    Raises:
        ValueError: none requires grad.
    """
    found = {
        id(value): (name, value)
        for name, value in named(model, nn.Module.named_parameters)
        if value.requires_grad
    }
    for k, value in enumerate(model.parameters()):
        if value.requires_grad:
            found.setdefault(id(value), (f"parameter {k}", value))
    if not found:
        raise ValueError(
            "denoiser: got no parameter that requires grad, expected something to train; use lora(denoiser), "
            "or network.requires_grad_(True)"
        )
    for _, value in found.values():
        if value.dtype in (torch.float16, torch.bfloat16):
            value.data = value.data.float()
    return dict(found.values())


def put(value: Tensor, new: Tensor) -> None:
    """Write a whole tensor into a parameter, which takes its own share where it is sharded."""
    mesh: Any = getattr(value, "device_mesh", None)
    with torch.no_grad():
        if mesh is None:
            value.copy_(new)
        else:
            from torch.distributed.tensor import distribute_tensor

            value.copy_(distribute_tensor(new.to(value.device), mesh, value.placements))  # pyright: ignore


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
