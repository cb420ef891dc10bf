"""DRaFT and DRaFT-K: reward gradients through the sampler."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ..rewards.base import RewardFunction
from .direct_gradient import DirectGradient
from .objective import Batch, LossTerm, Policy


@dataclass(frozen=True, eq=False)
class DRaFT(DirectGradient):
    """-r(x_N) + beta KL with the exact gradient of the sampler's last `last` steps, all by default, at the
    memory of one step.

    Args:
        last: K of DRaFT-K; the steps before run without a graph. The paper's fast variant is 1.
        kl: beta, reward per nat of the path KL to `policy.reference`. penalty: see `KL`; with `last` the
            path's gradient is truncated with the reward's.

    Source: Clark et al. 2023, arXiv 2309.17400, section 3, whose runs use 50 DDIM steps, guidance 7.5 through
    both branches, and no KL. Cost: N + 2 K calls and K VJPs; with a KL 2 reference calls and a VJP a step
    more.
    """

    last: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.last is not None and self.last < 1:
            raise ValueError(f"DRaFT: got last={self.last}, expected at least 1, or None for all steps")

    def losses(
        self, policy: Policy, batch: Batch, reward: RewardFunction, generator: torch.Generator
    ) -> Iterator[LossTerm]:
        return self.reward_through_last_steps(self.last, policy, batch, reward)
