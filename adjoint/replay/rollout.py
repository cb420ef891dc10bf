"""Rollout: everything one run of a plan needs, bound together once."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from ...solvers import Call, GivenNoise, Model, Noise
from ...solvers.loop import execute, predict, treated
from ...solvers.per_step import at_step
from ...solvers.program import Evaluator, Program
from .cond import leaves, substituted
from .parameters import parameters

Registers = dict[str, Tensor]  # what a plan's instructions work on, by name; "x" is the state
Watch = Callable[[int, Tensor], None]
Before = Callable[[int, Registers], None]


@dataclass(frozen=True, eq=False)
class Rollout:
    """One run of a plan: its program, and the model, conditioning, noise and controls that it runs on.

    A strategy of your own may run it (`execute`) as often and in whatever grad mode it likes, make the
    network calls in a way of its own (`evaluate`), and derive others: `replace(rollout,
    program=rollout.program.steps(low, high))` is a part of it, `quiet()` a rerun. `program.plan` is the plan.

    Attributes:
        program: the plan's instructions made ready.
        model, cond, noise, controls: as `sample` was given them.
        scheduled: whether any of cond is PerStep.
        watch: told (step, x) when a step opens: the caller's callback and progress.
        at: the steps whose opening state, before its control, the loss sees; `caught` receives them.
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
        """The prediction that `call` asks for at `state`: one network call."""
        return predict(
            self.model, call, state, at_step(self.cond, call.step) if self.scheduled else self.cond
        )

    def treated(self, call: Call, prediction: Tensor) -> Tensor:
        """What `evaluate` makes of the network's prediction where the plan has a function on it."""
        return treated(call, prediction)

    def before(self, step: int, registers: Registers) -> None:
        """What happens when a step opens: its state is caught, its control added, the watcher looks on."""
        if step in self.at:
            self.caught[step] = registers["x"]
        if self.controls is not None:
            registers["x"] = registers["x"] + self.controls[step]
        self.watch(step, registers["x"])

    def execute(
        self,
        registers: Registers,
        evaluate: Evaluator | None = None,
        program: Program | None = None,
        before: Before | None = None,
    ) -> Registers:
        """Run the program over `registers`, which are changed and returned; "x" is the sample then.

        Args:
            evaluate: (call, state) -> prediction, in place of the rollout's own.
            program: in place of the rollout's own.
            before: (step, registers) -> None, in place of the rollout's own.
        """
        return execute(
            program or self.program, registers, evaluate or self.evaluate, self.noise, before or self.before
        )

    def quiet(self) -> "Rollout":
        """The same run once more: nobody watches, and the states it catches are its own."""
        return replace(self, watch=lambda step, x: None, caught={})

    def standing_in(self, tensors: Mapping[str, Tensor]) -> "Rollout":
        """The same run with other tensors for some of the `arguments`."""
        places = {k: tensors.get(f"cond[{k}]", leaf) for k, leaf in enumerate(leaves(self.cond))}
        noise = self.noise
        if isinstance(noise, GivenNoise):
            noise = GivenNoise(tensors.get("noise", noise.values))
        return replace(
            self,
            cond=substituted(self.cond, places),
            controls=None if self.controls is None else tensors.get("controls", self.controls),
            noise=noise,
        )

    def arguments(self) -> dict[str, Tensor]:
        """Every tensor that the caller handed in besides the registers, by name."""
        found = {f"cond[{k}]": leaf for k, leaf in enumerate(leaves(self.cond))}
        if self.controls is not None:
            found["controls"] = self.controls
        if isinstance(self.noise, GivenNoise):
            found["noise"] = self.noise.values
        return found

    def declared(self) -> dict[str, Tensor]:
        """Every tensor that is known to enter besides the registers, by name: arguments and parameters."""
        return self.arguments() | parameters(self.model)
