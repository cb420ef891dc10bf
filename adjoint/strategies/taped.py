"""Taped: a strategy that is one node around the run, or nothing."""

from abc import abstractmethod

from ..replay.autograd_node import differentiable, obstacle
from ..replay.rollout import Registers, Rollout
from ..replay.tape import Captured, Tape
from .gradient import Gradient


class Taped(Gradient):
    """A strategy whose backward pass is its tape's, without a second way where that would be wrong."""

    @abstractmethod
    def tape(self, rollout: Rollout, registers: Registers) -> Tape:
        """The run, ready to go forwards. Raises ValueError where the strategy does not fit it."""

    def run(self, rollout: Rollout, registers: Registers) -> Registers:
        reason = obstacle(rollout)
        if reason:
            raise ValueError(f"{self}: got {reason}, expected none; use Checkpoint()")
        try:
            return {"x": differentiable(self.tape(rollout, registers))}
        except Captured as captured:
            raise ValueError(
                f"{self}: expected a network that reaches leaves only, got {captured}; pass it in cond, or use "
                "Checkpoint()"
            ) from None
