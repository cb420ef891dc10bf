"""Rollout: everything one run of a plan needs, bound together once; and what must not change until its
backward pass.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..solvers import Call, GivenNoise, Model, Noise
from ..solvers.loop import execute, predict
from ..solvers.program import Evaluator, Program
from .cond import at_step, leaves
from .parameters import parameters

Watch = Callable[[int, Tensor], None]
Before = Callable[[int, dict[str, Tensor]], None]


@dataclass(frozen=True, eq=False)
class Rollout:
    """A program with its model, conditioning (`scheduled`: some of it PerStep), noise, controls and watcher.

    `caught` receives the state at the opening of the steps in `at`, before the control.
    """

    program: Program
    model: Model
    cond: Any
    scheduled: bool
    noise: Noise | None
    controls: Tensor | None
    watch: Watch
    at: tuple[int, ...] = ()
    caught: dict[int, Tensor] = field(default_factory=dict)

    def evaluate(self, call: Call, state: Tensor) -> Tensor:
        """The prediction that `call` asks for at `state`."""
        return predict(
            self.model, call, state, at_step(self.cond, call.step) if self.scheduled else self.cond
        )

    def before(self, step: int, registers: dict[str, Tensor]) -> None:
        """What happens when a step opens: its state is caught, its control added, the watcher looks on."""
        if step in self.at:
            self.caught[step] = registers["x"]
        if self.controls is not None:
            registers["x"] = registers["x"] + self.controls[step]
        self.watch(step, registers["x"])

    def execute(
        self,
        registers: dict[str, Tensor],
        evaluate: Evaluator | None = None,
        program: Program | None = None,
        before: Before | None = None,
    ) -> dict[str, Tensor]:
        """Run the program; `evaluate` stands in for the model call, `before` for what happens when a step opens."""
        return execute(
            program or self.program, registers, evaluate or self.evaluate, self.noise, before or self.before
        )

    def declared(self) -> dict[str, Tensor]:
        """Every tensor that is known to enter, by name."""
        found = {f"cond[{k}]": leaf for k, leaf in enumerate(leaves(self.cond))}
        if self.controls is not None:
            found["controls"] = self.controls
        if isinstance(self.noise, GivenNoise):
            found["noise"] = self.noise.values
        return found | parameters(self.model)
