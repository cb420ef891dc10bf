"""Something done around a network's own calls, underneath all that a model builds around it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from copy import copy
from functools import partial
from typing import Any

from torch import Tensor, nn

from .model import Denoiser, Model


class NetworkCall(ABC):
    """What happens in place of `network(x, ...)`, or of `network(t, x, ...)`."""

    @abstractmethod
    def __call__(self, network: Callable[..., Any], *args: Any, **named: Any) -> Tensor:
        """The output; `network` may be called on something else than x, and its output changed. x is among the
        arguments, wherever the network takes it.
        """


def around(model: Model, call: NetworkCall) -> Model:
    """A copy of `model` whose networks are called by `call`.

    What a model makes of its networks' outputs (guidance, differences of two models) goes on as it was, with the
    outputs of `call`. A Model of another kind, which holds no other, counts as a network of its own.
    """
    if type(model).__call__ is Denoiser.__call__:
        own = copy(model)
        assert isinstance(own, Denoiser)
        network = own.network
        # a module stays one, and what it holds is found behind it; so it is behind a partial
        own.network = _Module(network, call) if isinstance(network, nn.Module) else partial(call, network)
        return own
    inner = {name: around(value, call) for name, value in vars(model).items() if isinstance(value, Model)}
    if not inner:
        return _Whole(model, call)
    own = copy(model)
    vars(own).update(inner)
    return own


class _Module(nn.Module):
    """A network that is a module, in its `call`."""

    def __init__(self, network: nn.Module, call: NetworkCall) -> None:
        super().__init__()
        self.network, self.call = network, call
        self.training = network.training

    def forward(self, *args: Any, **named: Any) -> Tensor:
        return self.call(self.network, *args, **named)


class _Whole(Model):
    """A model that is no Denoiser and is built on none, in its `call`."""

    def __init__(self, model: Model, call: NetworkCall) -> None:
        self.inner, self.call = model, call
        self.process, self.prediction = model.process, model.prediction

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        return self.call(self.inner, x, t, cond)

    def parameters(self) -> Iterator[Tensor]:
        return self.inner.parameters()

    def networks(self) -> Iterator[nn.Module]:
        return self.inner.networks()
