"""AroundCalls: a model whose network calls are made as a strategy makes steps, wherever the loop around them is."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from .bound_model import BoundModel
from .model_around import ModelAround

Step = Callable[[Tensor], Tensor]


class AroundCalls(ModelAround):
    """`model`, each call of which is one step of a run that autograd differentiates: kept, or replayed.

    For loops that are not a plan's alone: `around` is what `Gradient.around_steps` gives.
    """

    def __init__(self, model: BoundModel, around: Callable[[Step, str, Tensor], Tensor]) -> None:
        super().__init__(model)
        self.around, self.calls = around, 0

    def _called(self, model: Callable[..., Tensor], x: Tensor, t: Tensor, cond: Any) -> Tensor:
        self.calls += 1
        return self.around(lambda state: model(state, t, cond), f"network call {self.calls}", x)
