"""Auto: the default of `sample`, and the strategy that measures before it chooses."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ...solvers import Model, Plan
from ...solvers.wanted import Count, Positive
from ..replay.rollout import Registers, Rollout
from ..strategies.checkpoint import Checkpoint
from ..strategies.gradient import Around, Gradient
from .forecast import Limits
from .gradient_plan import planned


@dataclass(frozen=True)
class Auto(Gradient):
    """The fastest exact strategy within the limits that are given, as `plan_gradient` predicts; nobody has chosen.

    Without a limit it is `Checkpoint()` where something requires grad and plain sampling where nothing does, and
    nothing is measured. A class of its own so that `sample` can tell the two apart: whoever asks for `Checkpoint()`
    where nothing requires grad has made a mistake and is told so; whoever asks for nothing just samples.

    With a limit, the first run of a network at a batch measures one call of it: 5 to 17 forward passes without a
    graph, 7 to 19 with one, 7 to 19 VJPs, which its forward hooks see. They are not counted in `calls`.

    Args:
        memory: bytes that value and gradient may take above what is there before.
        deadline: seconds that they may take.
        calls: network calls forward, replays included.
    """

    memory: Count | None = None
    deadline: Positive | None = None
    calls: Count | None = None

    @property
    def limits(self) -> Limits:
        return Limits(self.memory, self.deadline, self.calls)

    def run(self, rollout: Rollout, registers: Registers) -> Registers:
        return self._strategy(rollout, registers).run(rollout, registers)

    def around_steps(self, model: Model, declared: Mapping[str, Tensor]) -> Around:
        if self != Auto():
            raise ValueError(
                f"{self}: got a guided run, of which one network call does not tell the cost, expected no limits; use "
                "Auto(), Checkpoint() or Direct()"
            )
        return Checkpoint().around_steps(model, declared)

    def cost(self, plan: Plan) -> tuple[int, int]:
        """That of `Checkpoint()`; what is chosen under limits says its own in `plan_gradient`."""
        return Checkpoint().cost(plan)

    def _strategy(self, rollout: Rollout, registers: Registers) -> Gradient:
        if self == Auto() or next(rollout.program.calls(), None) is None:
            return Checkpoint()
        return planned(rollout, registers, self.limits).strategy
