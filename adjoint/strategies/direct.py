"""Direct: no strategy at all."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ...solvers import Model, Plan
from ..replay.rollout import Registers, Rollout
from .gradient import Around, Gradient


@dataclass(frozen=True)
class Direct(Gradient):
    """Plain autograd through the loop. Cost: 3 N F; memory N activations. Exact."""

    def run(self, rollout: Rollout, registers: Registers) -> Registers:
        return rollout.execute(registers)

    def around_steps(self, model: Model, declared: Mapping[str, Tensor]) -> Around:
        return lambda step, name, x: step(x)

    def cost(self, plan: Plan) -> tuple[int, int]:
        return plan.nfe, plan.nfe
