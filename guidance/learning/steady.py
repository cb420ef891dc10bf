"""What is learned from needs a network that says the same of a sample whenever and with whomever it is asked."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ...adjoint.replay.call_state import CallState
from ...adjoint.replay.turns import Turns
from ...solvers import Model


def check_steady(what: str, model: Model) -> None:
    """Raise ValueError for dropout in train mode and for normalisation over the batch."""
    for network in model.networks():
        for name, module in network.named_modules():
            if _loud(module):
                raise ValueError(
                    f"{what}: got {type(module).__name__} {name or 'as the network'!r} in train mode or without "
                    "running statistics, expected a network whose output for a sample depends on nothing else; call "
                    "network.eval()"
                )


def _loud(module: nn.Module) -> bool:
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return module.training or module.running_mean is None
    return isinstance(module, nn.modules.dropout._DropoutNd) and module.training and module.p > 0


@contextmanager
def drawing_nothing(what: str, device: torch.device) -> Iterator[None]:
    """Raise ValueError if the network calls inside draw random numbers, as functional dropout does."""
    state = CallState(device, Turns())
    yield
    state.seal()
    if state.random:
        raise ValueError(
            f"{what}: got a network that draws random numbers (dropout?), expected none: every call draws others; "
            "call network.eval()"
        )
