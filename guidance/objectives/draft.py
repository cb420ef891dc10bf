"""DRaFT and DRaFT-K: reward gradients through the sampler."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ...adjoint import GridLevels
from ..rewards.base import RewardFunction
from .across_levels import check_levels, reward_across_levels
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
        levels: in place of the policy's plan, which evaluations keep: the gradient is an unbiased one of their finest
            grid's, or of the limit's, at a fraction of its calls; without `last` and `kl`. Rewards in the log are then
            estimates too.

    Source: Clark et al. 2023, arXiv 2309.17400, section 3, whose runs use 50 DDIM steps, guidance 7.5 through
    both branches, and no KL. Cost: N + 2 K calls and K VJPs; with a KL 2 reference calls and a VJP a step
    more.
    """

    last: int | None = None
    levels: GridLevels | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.levels is not None and self.last is not None:
            raise ValueError(
                f"DRaFT: got levels and last={self.last}, expected last=None: the last K steps of a coarse grid are "
                "not those of a fine one; AlignProp cuts every grid at one share of it"
            )
        if self.last is not None and self.last < 1:
            raise ValueError(f"DRaFT: got last={self.last}, expected at least 1, or None for all steps")

    def check(self, policy: Policy) -> None:
        super().check(policy)
        if self.levels is not None:
            check_levels(self.levels, policy, self.kl, self)

    def losses(
        self, policy: Policy, batch: Batch, reward: RewardFunction, generator: torch.Generator
    ) -> Iterator[LossTerm]:
        if self.levels is not None:
            return reward_across_levels(self.levels, policy, batch, reward, self.gradient)
        return self.reward_through_last_steps(self.last, policy, batch, reward)
