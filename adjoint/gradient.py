"""Gradient: what every strategy is."""

from abc import ABC, abstractmethod

from ..solvers import Plan
from ..solvers.checked import CheckedFields
from .replay.rollout import Registers, Rollout


class Gradient(CheckedFields, ABC):
    """A strategy: how a run is made so that autograd can call its result back, and what is kept for that.

    One of your own is a class with `run` and `cost`; `sample`, `audit` and all of `pullback.guidance` take it.
    This one lets the gradient pass through the network at the last call only, and around it at the others:

        @dataclass(frozen=True)
        class LastCall(Gradient):
            def run(self, rollout, registers):
                last = rollout.program.plan.nfe - 1

                def evaluate(call, state):
                    out = rollout.evaluate(call, state)
                    return out if call.index == last else out.detach()

                return rollout.execute(registers, evaluate)

            def cost(self, plan):
                return plan.nfe, 1
    """

    @property
    def samples(self) -> bool:
        """Whether it samples only, by other means than the plan, so that nothing needs to require grad."""
        return False

    @property
    def follows_plan(self) -> bool:
        """Whether it carries out the plan's own instructions; if not, it takes the times only, and draws by its own
        rule.
        """
        return True

    def halved(self, plan: Plan) -> "tuple[Gradient, int] | None":
        """The same on half as many steps of its own, at the same states of a run of `plan`, and its order: what `audit`
        extrapolates to the gradient of the flow. None where it has no steps of its own.
        """
        return None

    @abstractmethod
    def run(self, rollout: Rollout, registers: Registers) -> Registers:
        """The registers after the run, "x" with a graph to all that requires grad and that the strategy differentiates.

        Called in the caller's grad mode.

        Args:
            rollout: the run. Its `execute` and `evaluate` are plain code, which autograd differentiates.
            registers: on entry, yours to change; (B, ...) each, in the dtype the state is carried in.
        """

    @abstractmethod
    def cost(self, plan: Plan) -> tuple[int, int]:
        """Network calls forward, replays included, and VJPs of one value and gradient."""
