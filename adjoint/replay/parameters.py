"""The tensors of a model by name."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from ...solvers import Model


def parameters(model: Model) -> dict[str, Tensor]:
    """The model's tensors by name, each once."""
    found = {
        id(value): (f"parameter {name}", value) for name, value in named(model, nn.Module.named_parameters)
    }
    for value in model.parameters():
        found.setdefault(id(value), (f"parameter {len(found)}", value))
    return dict(found.values())


def named(model: Model, what: Callable[[nn.Module], Iterable[tuple[str, Any]]]) -> Iterator[tuple[str, Any]]:
    """What each of the model's networks names, numbered from the second network on: two may use the same names."""
    for k, network in enumerate(model.networks()):
        for name, value in what(network):
            yield (f"{name} of network {k}" if k else name), value
