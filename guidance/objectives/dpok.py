"""DPOK: policy gradients with a clamped ratio and a learned value."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...solvers.wanted import Limit
from ..rewards.base import RewardFunction
from .advantages import Advantages, OverBatch, Scale
from .critic import Critic
from .objective import Batch, Experience, LossTerm, Policy
from .peers import World
from .policy_gradient import PolicyGradient
from .surrogate import clamped_loss


@dataclass(frozen=True, eq=False)
class DPOK(PolicyGradient):
    """-clip(rho, 1 - c, 1 + c) A_k with A_k = r - V(x_k, k): a clamped ratio, not PPO's minimum (`clamped_loss`).

    Without a critic A = r minus the batch's mean. The paper's KL is a mean squared difference of noise
    predictions, per step and unweighted; here it is in nats, KL.PATH by default, KL.PER_STEP nearer to the
    paper. Its defaults: 5 passes over each rollout (of 10 samples, reward weight 100, KL weight 0.01), clip
    1e-4 of the mean over D, critic of lr 1e-4 with 5 fits.

    Source: Fan et al. 2023, arXiv 2305.16381, algorithm 1 and released code. Arguments, cost:
    `PolicyGradient`.
    """

    advantages: Advantages = field(default_factory=lambda: OverBatch(Scale.NONE))
    passes: int = 5
    advantage_clip: Limit | None = None
    critic: Critic | None = None

    def surrogate(self, logprob: Tensor, old: Tensor | None, advantage: Tensor) -> Tensor:
        assert old is not None
        return clamped_loss(logprob, old, advantage, self.clip)

    def advantage_of_step(self, experience: Experience, step: int) -> Tensor:
        if self.critic is None:
            return super().advantage_of_step(experience, step)
        return experience.extra["per_step"][step]

    def updates(
        self,
        policy: Policy,
        batch: Batch,
        experience: Experience | None,
        reward: RewardFunction,
        world: World,
        generator: torch.Generator,
    ) -> Iterator[Iterator[LossTerm]]:
        assert experience is not None and experience.states is not None
        if self.critic is not None:
            states, rewards = experience.states, experience.reward
            each = [rewards - self.critic.value(states, k) for k in range(policy.plan.steps)]
            advantages = torch.stack(each)
            if self.advantage_clip is not None:
                advantages = advantages.clamp(-self.advantage_clip, self.advantage_clip)
            experience.extra["per_step"] = advantages  # before the fit: V must not have seen these rewards
            self.critic.fit(states, rewards, world, generator)
        yield from super().updates(policy, batch, experience, reward, world, generator)

    def state(self) -> dict[str, Any]:
        if self.critic is None:
            return super().state()
        return super().state() | copy.deepcopy(
            {"critic": self.critic.net.state_dict(), "critic_optimiser": self.critic.optimiser.state_dict()}
        )

    def load(self, state: dict[str, Any]) -> None:
        super().load(state)
        if self.critic is not None:
            self.critic.net.load_state_dict(state["critic"])
            self.critic.optimiser.load_state_dict(state["critic_optimiser"])
