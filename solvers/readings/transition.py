"""Transitions: a stochastic plan read as a chain of Gaussian steps x_{k+1} = m_k(x_k, ...) + s_k xi."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..broadcast import per_sample
from ..instructions import Combine, Time, reads, writes
from ..linear_map import LinearMap
from ..loop import execute
from ..noise import Noise
from ..plan import Plan
from ..process import as_time
from ..program import Evaluator, Program


@dataclass(frozen=True)
class Transitions:
    """The Gaussian steps of `plan`: p(x_{k+1} | x_k, ...) = N(m_k, s_k^2 I), k = 0 .. N-1.

    Attributes:
        stds: s_k of each step, 0.0 where the step draws nothing; one number per sample in a stacked plan.
        stochastic: the steps that have a density.
        slots: the noise slot of each step, None where it draws nothing.
        excluded: the steps with s_k = 0, as the last one of DDIM(eta=1) on a grid to sigma = 0: they have
            none.

    Raises:
        ValueError: a step with more than one draw, or one whose draw is not the last thing that happens to
            the state; a plan with an Apply.
    """

    plan: Plan
    stds: tuple[Time, ...] = field(init=False)
    slots: tuple[int | None, ...] = field(init=False)
    _slices: tuple[tuple[int, ...], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.plan.entry != ("x",) or self.plan.exit != ("x",):
            raise ValueError(
                f"{self.plan.name}: got registers {self.plan.entry} to {self.plan.exit}, expected a sampler "
                "from x to x"
            )
        self.plan.check_linear("transitions")
        steps = range(self.plan.steps)
        drawn = [_draw(self.plan, step) for step in steps]
        object.__setattr__(self, "stds", tuple(s for s, _ in drawn))
        object.__setattr__(self, "slots", tuple(slot for _, slot in drawn))
        object.__setattr__(self, "_slices", tuple(_slice(self.plan, step) for step in steps))

    @property
    def stochastic(self) -> tuple[int, ...]:
        """Steps with s_k > 0."""
        return tuple(k for k, s in enumerate(self.stds) if s != 0.0)

    @property
    def excluded(self) -> tuple[int, ...]:
        """Steps with s_k = 0."""
        return tuple(k for k, s in enumerate(self.stds) if s == 0.0)

    def std(self, step: int, like: Tensor) -> Tensor | float:
        """s_k: a number, or (B, 1, ...) in `like`'s dtype for a stacked plan."""
        s = self.stds[step]
        return s if isinstance(s, float) else per_sample(as_time(s).to(like), like)

    def window(self, step: int) -> tuple[int, ...]:
        """The steps whose opening states m_k depends on, k included: more than k alone for multistep methods."""
        return tuple(sorted({_step_of(self.plan, i) for i in self._slices[step]}))

    def mean(
        self, program: Program, evaluate: Evaluator, states: Sequence[Tensor] | Tensor, step: int
    ) -> Tensor:
        """m_k at given states: the step without its noise.

        Args:
            program: `prepare(plan, model, states[0])`.
            evaluate: (call, state) to the prediction, as `solvers.predict` gives it.
            states: x_0 .. x_k at least, (B, ...) each, as visited; history is evaluated at them too, with its
                graph.

        Returns:
            (B, ...), in the states' dtype, float32 at least (half precision is widened); differentiable by
            plain autograd in states and parameters.

        Cost: the step's network calls, and for a multistep method those of its history.
        """
        ops = [program.ops[i] for i in self._slices[step]]
        wide = torch.promote_types(states[0].dtype, torch.float32)
        registers: dict[str, Tensor] = {}

        def given(k: int, registers: dict[str, Tensor]) -> None:
            registers["x"] = states[k].to(wide)

        return execute(Program(program.plan, ops), registers, evaluate, _Silent(), given)["x"]


class _Silent(Noise):
    """Zero for every slot."""

    def check(self, slots: int, like: Tensor) -> None:
        pass

    def __call__(self, slot: int, like: Tensor) -> Tensor:
        return torch.zeros_like(like)


def _step_of(plan: Plan, index: int) -> int:
    """The step that an instruction belongs to."""
    return bisect_right(plan.starts, index) - 1


def _draw(plan: Plan, step: int) -> tuple[Time, int | None]:
    """(scale, slot) of the noise that ends a step; (0.0, None) where it draws nothing."""
    ops = plan.step(step)
    drawn = [(k, op) for k, op in enumerate(ops) if isinstance(op, Combine) and op.noise]
    if not drawn:
        return 0.0, None
    k, op = drawn[0]
    if (
        len(drawn) > 1
        or len(op.noise) > 1
        or op.out != "x"
        or any("x" in writes(later) for later in ops[k + 1 :])
    ):
        raise ValueError(
            f"{plan.name}: got step {step} whose noise does not end it, expected x <- deterministic + s xi "
            "with one draw; take DDPM, DDIM(eta > 0), FlowSDE, EulerMaruyama, SDEDPMSolverPP or ERSDE"
        )
    s, slot = next(iter(op.noise))
    scales = s if isinstance(s, tuple) else (s,)
    numbers = tuple([c for c in scales if not isinstance(c, LinearMap)])
    if len(numbers) < len(scales):
        raise ValueError(
            f"{plan.name}: got noise of scale {s} in step {step}, expected a number; steps whose noise differs from "
            "element to element are not read as transitions"
        )
    if not all(v > 0 and math.isfinite(v) for v in numbers):
        raise ValueError(
            f"{plan.name}: got noise of scale {s} in step {step}, expected finite positive numbers; move the "
            "grid"
        )
    return (numbers if isinstance(s, tuple) else numbers[0]), slot


def _slice(plan: Plan, step: int) -> tuple[int, ...]:
    """The instructions that m_k takes, given the state at the opening of every step.

    The step's own, and for a multistep method those that wrote its history: walk back from the step and take each
    instruction that writes what is still needed. The walk ends at openings, where "x" is given.
    """
    own = plan.span(step, step + 1)
    chosen, written, needed = list(range(own.start, own.stop)), {"x"}, set[str]()
    for op in plan.step(step):
        needed |= set(reads(op)) - written
        written |= set(writes(op))
    for i in range(own.start - 1, -1, -1):  # back through what wrote the history that is read
        op = plan.instructions[i]
        if not needed:
            break
        if not needed & set(writes(op)):
            continue
        if isinstance(op, Combine) and op.noise:
            raise ValueError(
                f"{plan.name}: got a history in step {step} that holds noise of its own, expected one made "
                "of visited states; take a method that evaluates at the opening of its steps"
            )
        chosen.append(i)
        needed -= set(writes(op))
        # "x" at its step's opening is given; one that the step has written since is not
        moved = any("x" in writes(before) for before in plan.instructions[plan.starts[_step_of(plan, i)] : i])
        needed |= {name for name in reads(op) if name != "x" or moved}
    return tuple(sorted(chosen))
