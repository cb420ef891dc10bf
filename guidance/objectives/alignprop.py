"""AlignProp: DRaFT with a random depth."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from ...adjoint import Checkpoint, Gradient, GridLevels, Registers, Rollout, Truncated
from ...solvers import Plan
from ...solvers.checked import CheckedFields
from ..rewards.base import RewardFunction
from .across_levels import check_levels, reward_across_levels
from .direct_gradient import DirectGradient
from .objective import Batch, LossTerm, Policy


class Cut(CheckedFields, ABC):
    """Where on the way, 0 the noise and 1 the sample, the differentiated part begins."""

    @abstractmethod
    def draw(self, generator: torch.Generator) -> float:
        """One cut."""

    def last(self, steps: int, generator: torch.Generator) -> int:
        """The number of steps differentiated, 1 .. steps."""
        return _steps_after(self.draw(generator), steps)


@dataclass(frozen=True)
class NormalCut(Cut):
    """N(mean, std^2); the paper's N(42, 5^2) of 50 steps by default: 8 steps on average."""

    mean: float = 0.84
    std: float = 0.1

    def draw(self, generator: torch.Generator) -> float:
        return self.mean + self.std * float(torch.randn((), generator=generator, dtype=torch.float64))


@dataclass(frozen=True)
class UniformCut(Cut):
    """Uniform on [0, 1): every depth equally often."""

    def draw(self, generator: torch.Generator) -> float:
        return float(torch.rand((), generator=generator, dtype=torch.float64))


@dataclass(frozen=True)
class FromCut(Gradient):
    """The gradient of the steps after one cut on the way, however many a grid has there."""

    cut: float
    inner: Gradient = field(default_factory=Checkpoint)

    def run(self, rollout: Rollout, registers: Registers) -> Registers:
        return self._strategy(rollout.program.plan.steps).run(rollout, registers)

    def cost(self, plan: Plan) -> tuple[int, int]:
        return self._strategy(plan.steps).cost(plan)

    def _strategy(self, steps: int) -> Gradient:
        last = _steps_after(self.cut, steps)
        return Truncated(last, self.inner) if last < steps else self.inner


def _steps_after(cut: float, steps: int) -> int:
    """The number of steps, 1 .. steps, that come after `cut`."""
    return steps - min(max(int(cut * steps), 0), steps - 1)


@dataclass(frozen=True, eq=False)
class AlignProp(DirectGradient):
    """DRaFT-K with K drawn once for every rollout, the same for all samples and processes.

    trl's class of this name drew anew at every step, which gates steps one by one: another algorithm. The
    paper's losses are rescaled rewards, 0.01 |r - 10| or 0.01 (1 - r); here -r: put the scale into the reward
    or the learning rate.

    Source: Prabhudesai et al. 2023, arXiv 2310.03739, section 4.2 and released code. Arguments, cost: as
    `DRaFT`; with `levels` every grid is cut at the same share of its steps.
    """

    cut: Cut = field(default_factory=NormalCut)
    levels: GridLevels | None = None

    def check(self, policy: Policy) -> None:
        super().check(policy)
        if self.levels is not None:
            check_levels(self.levels, policy, self.kl, self)

    def losses(
        self, policy: Policy, batch: Batch, reward: RewardFunction, generator: torch.Generator
    ) -> Iterator[LossTerm]:
        if self.levels is not None:
            gradient = FromCut(self.cut.draw(generator), self.gradient)
            return reward_across_levels(self.levels, policy, batch, reward, gradient)
        last = self.cut.last(policy.plan.steps, generator)
        return self.reward_through_last_steps(last, policy, batch, reward)
