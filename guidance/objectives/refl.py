"""ReFL: the reward of a one-step prediction late on the way."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.utils._pytree import tree_map_only

from ...adjoint import PerStep, sample
from ...adjoint.arguments import noise_for
from ...solvers.model import data_prediction
from ...solvers.per_step import at_step
from ...solvers.wanted import Finite
from ..rewards.asked import evaluate_reward
from ..rewards.base import RewardFunction
from .direct_gradient import DirectGradient
from .kl import KL
from .objective import Batch, LossTerm, Policy


@dataclass(frozen=True, eq=False)
class ReFL(DirectGradient):
    """scale ReLU(ceiling - r(D(x_m))): m random steps without a graph, then one data prediction with one.

    The reward sees D(x_m), which is not the sample: its figure is called "prediction_reward".

    Args:
        first: m is uniform over the steps from this share of N to the last, drawn once for every rollout.
        scale, ceiling: of the released loss, 1e-3 ReLU(2 - r) with ImageReward.
        kl: beta; penalty: per step by default, since the reward's gradient does not follow the path.
        gradient: of a path KL; the prediction is one call, which leaves nothing to choose: without a path KL a
            strategy whose gradient is not autograd's is refused.

    Source: Xu et al. 2023, arXiv 2304.05977, algorithm 1 and released code (40 steps, m from 30 to 39, no
    guidance). Cost: m + 1 calls, 1 VJP.
    """

    penalty: KL = KL.PER_STEP
    first: float = 0.75
    scale: Finite = 1e-3
    ceiling: Finite = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 <= self.first < 1 and self.scale > 0):
            raise ValueError(
                f"ReFL: got first={self.first}, scale={self.scale}, expected 0 <= first < 1 and scale > 0"
            )

    def check(self, policy: Policy) -> None:
        super().check(policy)
        self.check_one_call("the prediction", alone=not (self.kl and self.penalty is KL.PATH))

    def losses(
        self, policy: Policy, batch: Batch, reward: RewardFunction, generator: torch.Generator
    ) -> Iterator[LossTerm]:
        plan = policy.plan
        low = min(math.ceil(self.first * plan.steps), plan.steps - 1)
        m = int(torch.randint(low, plan.steps, (), generator=generator))
        x = batch.x
        if m:
            cond = tree_map_only(PerStep, lambda leaf: PerStep(leaf.values[:m]), batch.cond)
            drawn = noise_for(plan, batch.noise)
            x = sample(policy.denoiser, plan.split(m)[0], x, cond=cond, noise=drawn, gradient=None)
        x0 = data_prediction(policy.denoiser, x, plan.times[m], at_step(batch.cond, m))
        rewards = evaluate_reward(reward, x0, batch.context, differentiable=True)
        yield LossTerm(
            self.scale * (self.ceiling - rewards).relu().mean(),
            {"prediction_reward": float(rewards.detach().mean())},
            rewards.detach(),
        )
        yield from self.penalty_alone(policy, batch)
