"""Truncated: the end of the run is handed to another strategy, what comes before only runs."""

from collections.abc import Collection
from dataclasses import dataclass, field, replace

import torch

from ...solvers import Plan
from ..replay.rollout import Registers, Rollout
from .checkpoint import Checkpoint
from .gradient import Gradient
from .input import Input
from .left_out import warn_left_out


@dataclass(frozen=True)
class Truncated(Gradient):
    """Differentiates only the last `last` steps; the steps before run without a graph. DRaFT-K (arXiv 2309.17400).

    The gradient is that of the truncated chain: with last < N nothing reaches x, early noise or early
    conditioning; an x that requires grad beside something else is warned of. Cost: N F + 3 last F under
    `Direct`, one F more per step under `Checkpoint`.

    Args:
        last: K, how many steps are differentiated; from N on all of them.
        inner: the strategy for these; of truncations within each other the shorter one holds.
    """

    last: int
    inner: Gradient = field(default_factory=Checkpoint)

    def __post_init__(self) -> None:
        if self.last < 1:
            raise ValueError(
                f"Truncated: got last={self.last}, expected at least 1 step; gradient=None samples without "
                "gradients"
            )
        if isinstance(self.inner, Truncated):  # both count from the end of the run
            object.__setattr__(self, "last", min(self.last, self.inner.last))
            object.__setattr__(self, "inner", self.inner.inner)

    def check(self, plan: Plan, wanted: Collection[Input] = ()) -> None:
        if self.last < plan.steps and Input.X in wanted:
            raise ValueError(
                f"{self}: got x to differentiate, expected something that enters the last {self.last} of {plan.steps} "
                "steps; truncation cuts x off: use Checkpoint() for it"
            )
        self.inner.check(plan, wanted)

    def run(self, rollout: Rollout, registers: Registers) -> Registers:
        program = rollout.program
        cut = max(0, program.plan.steps - self.last)
        head, tail = program.steps(0, cut), program.steps(cut, program.plan.steps)
        if cut:
            wanted = [name for name, value in registers.items() if value.requires_grad]
            warn_left_out(
                self, wanted, f"only the last {self.last} of {program.plan.steps} steps are differentiated"
            )
            with torch.no_grad():
                registers = replace(rollout, program=head).execute(
                    {name: value.detach() for name, value in registers.items()}
                )
        return self.inner.run(replace(rollout, program=tail), registers)

    def cost(self, plan: Plan) -> tuple[int, int]:
        head, tail = plan.split(max(0, plan.steps - self.last))
        calls, vjps = self.inner.cost(tail)
        return head.nfe + calls, vjps
