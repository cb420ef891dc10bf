"""Gradient strategies: what is kept between a run and its backward pass."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..solvers import Call, Noise, Program, execute
from .replay import Live, Region

Evaluator = Callable[[Call, Tensor], Tensor]
Before = Callable[[int, dict[str, Tensor]], None]


class Gradient(ABC):
    """Runs a program so that the result can be called back by autograd."""

    @abstractmethod
    def run(self, program: Program, registers: dict[str, Tensor], evaluate: Evaluator, noise: Noise | None,
            before: Before) -> dict[str, Tensor]:
        """The registers after the run."""


@dataclass(frozen=True)
class Direct(Gradient):
    """Plain autograd through the loop. Cost: 3 N F; memory N activations. Exact."""

    def run(self, program: Program, registers: dict[str, Tensor], evaluate: Evaluator, noise: Noise | None,
            before: Before) -> dict[str, Tensor]:
        return execute(program, registers, evaluate, noise, before)


@dataclass(frozen=True)
class Checkpoint(Gradient):
    """Keeps the state at every network call and replays the call in the backward pass. Exact: equal to `Direct`.

    Cost: 4 N F (N forwards, N replays, N VJPs); memory N states, the graph's nodes, and one activation.

    Args:
        offload: keep the states on the CPU.
    """

    offload: bool = False

    def run(self, program: Program, registers: dict[str, Tensor], evaluate: Evaluator, noise: Noise | None,
            before: Before) -> dict[str, Tensor]:
        live = Live()

        def replayed(call: Call, state: Tensor) -> Tensor:
            name = f"network call {call.index} of step {call.step}"
            return Region(lambda x: evaluate(call, x), name, live, self.offload)(state)

        return execute(program, registers, replayed, noise, before)


@dataclass(frozen=True)
class Truncated(Gradient):
    """Differentiates only the last `last` steps; the steps before run without a graph. DRaFT-K (arXiv 2309.17400).

    The gradient is that of the truncated chain: with last < N nothing reaches x, early noise or early conditioning.
    Cost: N F + 3 last F under `Direct`, one F more per step under `Checkpoint`.
    """

    last: int
    inner: Gradient = field(default_factory=Checkpoint)

    def __post_init__(self) -> None:
        if self.last < 1:
            raise ValueError(f"Truncated: got last={self.last}, expected at least 1 step; gradient=None samples without gradients")

    def run(self, program: Program, registers: dict[str, Tensor], evaluate: Evaluator, noise: Noise | None,
            before: Before) -> dict[str, Tensor]:
        cut = max(0, program.plan.steps - self.last)
        head = Program(program.plan, tuple(op for op in program.ops if op[2] < cut))
        tail = Program(program.plan, tuple(op for op in program.ops if op[2] >= cut))
        with torch.no_grad():
            registers = execute(head, registers, evaluate, noise, before)
        return self.inner.run(tail, registers, evaluate, noise, before)


@dataclass(frozen=True)
class Auto(Gradient):
    """`Checkpoint()` where something requires grad, plain sampling where nothing does: the default of `sample`."""

    def run(self, program: Program, registers: dict[str, Tensor], evaluate: Evaluator, noise: Noise | None,
            before: Before) -> dict[str, Tensor]:
        return Checkpoint().run(program, registers, evaluate, noise, before)
