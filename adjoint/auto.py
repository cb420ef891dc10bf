"""Auto: the default of `sample`."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ..solvers import Model, Plan
from .checkpoint import Checkpoint
from .gradient import Around, Gradient
from .replay.rollout import Registers, Rollout


@dataclass(frozen=True)
class Auto(Gradient):
    """`Checkpoint()` where something requires grad, plain sampling where nothing does: nobody has chosen.

    A class of its own so that `sample` can tell the two apart: whoever asks for `Checkpoint()` where nothing
    requires grad has made a mistake and is told so; whoever asks for nothing just samples.
    """

    def run(self, rollout: Rollout, registers: Registers) -> Registers:
        return Checkpoint().run(rollout, registers)

    def around_steps(self, model: Model, declared: Mapping[str, Tensor]) -> Around:
        return Checkpoint().around_steps(model, declared)

    def cost(self, plan: Plan) -> tuple[int, int]:
        return Checkpoint().cost(plan)
