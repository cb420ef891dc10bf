"""ModelAround: another model, whose calls go by way of one function; all else is the inner model's."""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from ...solvers import Model


class ModelAround(Model):
    """`model`, called as `_called` calls it, for its predictions and for its variances alike."""

    def __init__(self, model: Model) -> None:
        self.model, self.process, self.prediction = model, model.process, model.prediction
        self.learns_variance = model.learns_variance

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        return self._called(self.model, x, t, cond)

    def with_variance(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        return self._called(self.model.with_variance, x, t, cond)

    @abstractmethod
    def _called(self, model: Callable[..., Tensor], x: Tensor, t: Tensor, cond: Any) -> Tensor:
        """model(x, t, cond), or what takes its place."""

    def check_times(self, times: Tensor) -> None:
        self.model.check_times(times)

    def parameters(self) -> Iterator[Tensor]:
        yield from self.model.parameters()

    def networks(self) -> Iterator[nn.Module]:
        yield from self.model.networks()
