"""Direct: no strategy at all."""

from dataclasses import dataclass

from ..solvers import Plan
from .gradient import Gradient
from .replay.rollout import Registers, Rollout


@dataclass(frozen=True)
class Direct(Gradient):
    """Plain autograd through the loop. Cost: 3 N F; memory N activations. Exact."""

    def run(self, rollout: Rollout, registers: Registers) -> Registers:
        return rollout.execute(registers)

    def cost(self, plan: Plan) -> tuple[int, int]:
        return plan.nfe, plan.nfe
