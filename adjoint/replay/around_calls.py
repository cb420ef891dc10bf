"""AroundCalls: a model whose network calls are made as a strategy makes steps, wherever the loop around them is."""

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from ...solvers import Model
from .bound_model import BoundModel

Step = Callable[[Tensor], Tensor]


class AroundCalls(Model):
    """`model`, each call of which is one step of a run that autograd differentiates: kept, or replayed.

    For loops that are not a plan's alone: `around` is what `Gradient.around_steps` gives.
    """

    def __init__(self, model: BoundModel, around: Callable[[Step, str, Tensor], Tensor]) -> None:
        self.model, self.around = model, around
        self.process, self.prediction, self.learns_variance = (
            model.process,
            model.prediction,
            model.learns_variance,
        )
        self.calls = 0

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        return self._called(self.model, x, t, cond)

    def with_variance(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        return self._called(self.model.with_variance, x, t, cond)

    def _called(self, model: Callable[..., Tensor], x: Tensor, t: Tensor, cond: Any) -> Tensor:
        self.calls += 1
        return self.around(lambda state: model(state, t, cond), f"network call {self.calls}", x)

    def check_times(self, times: Tensor) -> None:
        self.model.check_times(times)

    def parameters(self) -> Iterator[Tensor]:
        yield from self.model.parameters()

    def networks(self) -> Iterator[nn.Module]:
        yield from self.model.networks()
