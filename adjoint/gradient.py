"""Gradient strategies: what is kept between a run and its backward pass."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from ..solvers import Apply, Plan
from .parameters import sharded
from .rollout import Rollout

Registers = dict[str, Tensor]


class Gradient(ABC):
    """Runs a rollout so that its result can be called back by autograd."""

    @property
    def samples(self) -> bool:
        """Whether it samples only, by other means than the plan, so that nothing needs to require grad."""
        return False

    @abstractmethod
    def run(self, rollout: Rollout, registers: Registers) -> Registers:
        """The registers after the run."""

    @abstractmethod
    def cost(self, plan: Plan) -> tuple[int, int]:
        """Network calls forward, replays included, and VJPs of one value and gradient."""


@dataclass(frozen=True)
class Direct(Gradient):
    """Plain autograd through the loop. Cost: 3 N F; memory N activations. Exact."""

    def run(self, rollout: Rollout, registers: Registers) -> Registers:
        return rollout.execute(registers)

    def cost(self, plan: Plan) -> tuple[int, int]:
        return plan.nfe, plan.nfe


def obstacle(rollout: Rollout) -> str:
    """Why one node around the run would be wrong, as far as is known before the first call; "" if nothing is."""
    if any(isinstance(op, Apply) for op in rollout.program.plan.instructions):
        return "a plan with Apply instructions"
    if rollout.program.learned:
        return "coefficients that require grad"
    if sharded(rollout.model):
        return "sharded parameters (FSDP)"
    return ""


def refuse(strategy: Gradient, rollout: Rollout) -> None:
    """Raise ValueError where one node around the run would be wrong and there is nothing to fall back to."""
    reason = obstacle(rollout)
    if reason:
        raise ValueError(f"{strategy}: got {reason}, expected none; use Checkpoint()")
