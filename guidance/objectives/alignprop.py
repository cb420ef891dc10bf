"""AlignProp: DRaFT with a random depth."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from ...solvers.checked import Checked
from ..rewards.base import RewardFunction
from .direct_gradient import DirectGradient
from .objective import Batch, LossTerm, Policy


class Cut(Checked, ABC):
    """Where on the way, 0 the noise and 1 the sample, the differentiated part begins."""

    @abstractmethod
    def draw(self, generator: torch.Generator) -> float:
        """One cut."""

    def last(self, steps: int, generator: torch.Generator) -> int:
        """The number of steps differentiated, 1 .. steps."""
        return steps - min(max(int(self.draw(generator) * steps), 0), steps - 1)


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


@dataclass(frozen=True, eq=False)
class AlignProp(DirectGradient):
    """DRaFT-K with K drawn once for every rollout, the same for all samples and processes.

    trl's class of this name drew anew at every step, which gates steps one by one: another algorithm. The
    paper's losses are rescaled rewards, 0.01 |r - 10| or 0.01 (1 - r); here -r: put the scale into the reward
    or the learning rate.

    Source: Prabhudesai et al. 2023, arXiv 2310.03739, section 4.2 and released code. Arguments, cost: as
    `DRaFT`.
    """

    cut: Cut = field(default_factory=NormalCut)

    def losses(
        self, policy: Policy, batch: Batch, reward: RewardFunction, generator: torch.Generator
    ) -> Iterator[LossTerm]:
        last = self.cut.last(policy.plan.steps, generator)
        return self.reward_through_last_steps(last, policy, batch, reward)
