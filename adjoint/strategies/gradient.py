"""Gradient: what every strategy is."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping

from torch import Tensor

from ...solvers import Model, Plan
from ...solvers.checked import CheckedFields
from ..replay.rollout import Registers, Rollout
from .input import Input

Around = Callable[
    [Callable[[Tensor], Tensor], str, Tensor], Tensor
]  # (step, its name in errors, x) -> step(x)


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

    def check(self, plan: Plan, wanted: Collection[Input] = ()) -> None:  # noqa: B027  (most carry out any plan)
        """Raise ValueError where it cannot carry out `plan`, or gives nothing to what is `wanted`: whoever optimises
        through a sampler asks before any work.
        """

    def around_steps(self, model: Model, declared: Mapping[str, Tensor]) -> Around:
        """How the steps of a run are made that are more than their plan's instructions, as a guide's are: any function
        of x, differentiated by autograd. `declared`: what is known to enter `model`, by name.

        Raises:
            ValueError: of strategies that differentiate by the plan.
        """
        raise ValueError(
            f"gradient={self}: got a guided run, whose steps are more than their plan's instructions, expected "
            "Checkpoint() or Direct()"
        )

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
