"""A model with something around each of its calls: an adapter switched off, a lower precision."""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from ...solvers import ClassifierFree, Model


class Wrapped(Model):
    """`model`, called otherwise; its process, prediction, parameters and networks are the model's own."""

    def __init__(self, model: Model) -> None:
        self.model, self.process, self.prediction = model, model.process, model.prediction

    @abstractmethod
    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        """The prediction, in x's shape and dtype."""

    def parameters(self) -> Iterator[Tensor]:
        yield from self.model.parameters()

    def networks(self) -> Iterator[nn.Module]:
        yield from self.model.networks()

    def check_times(self, times: Tensor) -> None:
        self.model.check_times(times)


def within(model: Model, wrap: Callable[[Model], Model]) -> Model:
    """`wrap` around what is guided rather than around the guidance, which objectives must be able to see."""
    if isinstance(model, ClassifierFree):
        return model.around(within(model.denoiser, wrap))
    return wrap(model)
