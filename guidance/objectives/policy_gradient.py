"""Policy gradients over the steps of a sampler: what DDPO, DPOK, Flow-GRPO and DanceGRPO share."""

import warnings
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...solvers.wanted import Finite, Limit
from ..rewards.asked import evaluate_reward
from ..rewards.base import RewardFunction
from .advantages import Advantages, OverBatch
from .chain import Chain, samples_of, visited
from .kl import KL
from .likelihood import gaussian_kl, gaussian_logprob
from .objective import Batch, Experience, LossTerm, Objective, Policy
from .peers import World, draw_steps, minibatches
from .recalled import Recalled, recall
from .requirements import check_path_kl, require_gaussian_steps, require_trainable


@dataclass(frozen=True, eq=False)
class PolicyGradient(Objective):
    """Descends, over the trained steps k of a sample and one step's graph at a time,

        sum_k  surrogate(log p_k, log p_k old, A - beta (L_k - mean L_k)) + beta KL_k,     L_k = sum_{j > k} KL_j

    L_k, the KL still to come, is what makes the penalty's gradient that of the path KL (`KL.PATH`);
    `KL.PER_STEP` leaves it out. With several updates per rollout L_k is that of the rollout's policy. The
    mean of L_k is over the samples of all processes.

    Args:
        advantages: how rewards become A.
        kl: beta, in units of A per nat: dividing the reward by a standard deviation multiplies it.
        penalty: see `KL`.
        passes: times the samples are gone through. minibatches: updates per pass; each sees all trained steps
            of its samples.
        clip: the ratio's band. advantage_clip: |A| is held below it.
        mean: log-probabilities and the whole loss are divided by D, the numbers in a sample: the papers'
            `clip` is of that. The optimum is the same; False leaves nats, with a `clip` D times as wide for
            the same band.
        fraction: of the steps, drawn anew for each rollout, the rest weighted up for it.
        skip_last: the step into the plan's last node earns no reward. Its KL is descended like that of the
            others: it has its weights from them, and unpenalised it runs away (123 nats on a Gaussian, and E r
            below the base's).

    Cost per rollout: N calls to sample; for ratios or a KL one policy call (and one of the reference) a step
    once more; then a call and a VJP per sample, trained step and pass. Memory: N + 1 states (2 N + 1 with a
    KL) and one call's graph.
    """

    advantages: Advantages = field(default_factory=OverBatch)
    kl: Finite = 0.0
    penalty: KL = KL.PATH
    passes: int = 1
    minibatches: int = 1
    clip: float = 1e-4
    advantage_clip: Limit | None = 5.0
    mean: bool = True
    fraction: float = 1.0
    skip_last: bool = False

    def __post_init__(self) -> None:
        who = type(self).__name__
        counts = self.passes >= 1 and self.minibatches >= 1
        if self.kl < 0 or not counts or not 0 < self.fraction <= 1 or not self.clip > 0:
            raise ValueError(
                f"{who}: got kl={self.kl}, passes={self.passes}, minibatches={self.minibatches}, "
                f"clip={self.clip}, fraction={self.fraction}, expected kl >= 0, passes and minibatches >= 1, "
                "clip > 0, 0 < fraction <= 1"
            )

    @abstractmethod
    def surrogate(self, logprob: Tensor, old: Tensor | None, advantage: Tensor) -> Tensor:
        """The loss (B,) of one step, from its log-probability now and in the rollout and its advantage (B,)."""

    @property
    def needs_old(self) -> bool:
        """Whether `surrogate` compares with the rollout's log-probabilities."""
        return True

    def check(self, policy: Policy) -> None:
        require_trainable(policy)
        found = require_gaussian_steps(policy.plan, self)
        if not self._steps(policy):
            raise ValueError(
                f"{type(self).__name__}: got {policy.plan.name} with noise in its last step only, which is "
                "not trained; expected noise in an earlier one"
            )
        if self.kl:
            check_path_kl(policy, self)
        if found.excluded:
            warnings.warn(
                f"{type(self).__name__}: steps {list(found.excluded)} of {policy.plan.name} draw no noise: "
                "they have no log-probability and are not trained",
                stacklevel=2,
            )

    def rollout(self, policy: Policy, batch: Batch, reward: RewardFunction, world: World) -> Experience:
        states = visited(policy, batch)
        rewards = evaluate_reward(reward, states[-1], batch.context)
        advantages = world.own(self.advantages(world.whole(rewards), world.whole(batch.groups)))
        if self.advantage_clip is not None:
            advantages = advantages.clamp(-self.advantage_clip, self.advantage_clip)
        return Experience(batch, rewards, states, {"advantages": advantages})

    def updates(
        self,
        policy: Policy,
        batch: Batch,
        experience: Experience | None,
        reward: RewardFunction,
        world: World,
        generator: torch.Generator,
    ) -> Iterator[Iterator[LossTerm]]:
        assert experience is not None
        steps, weight = self._steps(policy), 1.0
        if self.fraction < 1:
            chosen = draw_steps(steps, max(1, round(self.fraction * len(steps))), generator)
            steps, weight = chosen, len(steps) / len(chosen)
        recalled = None
        for _ in range(self.passes):
            parts = minibatches(len(batch), self.minibatches, world, generator)
            recalled = recalled or recall(
                policy,
                experience,
                parts,
                world,
                logprob=self.needs_old,
                penalty=self.penalty if self.kl else None,
                mean=self.mean,
            )
            for part in parts:
                yield self._losses(policy, experience, recalled, part, steps, weight)

    def state(self) -> dict[str, Any]:
        return {"advantages": self.advantages.state()}

    def load(self, state: dict[str, Any]) -> None:
        self.advantages.load(state["advantages"])

    def advantage_of_step(self, experience: Experience, step: int) -> Tensor:
        """A of step `step`, (B,), before the KL still to come is taken off."""
        return experience.extra["advantages"]

    def _steps(self, policy: Policy) -> list[int]:
        steps = list(require_gaussian_steps(policy.plan, self).stochastic)
        return [k for k in steps if k < policy.plan.steps - 1] if self.skip_last else steps

    def _held(self, policy: Policy) -> list[int]:
        """The steps that earn no reward and yet pay their KL: the last one where it is skipped."""
        trained = self._steps(policy)
        steps = require_gaussian_steps(policy.plan, self).stochastic
        return [k for k in steps if self.kl and k not in trained]

    def _losses(
        self,
        policy: Policy,
        experience: Experience,
        recalled: Recalled,
        part: Tensor,
        steps: list[int],
        weight: float,
    ) -> Iterator[LossTerm]:
        """A term for each of `steps`, of the samples `part`; `weight` makes up for the steps not drawn. The
        step that is held to the reference without being trained has one too.
        """
        states, cond = samples_of(experience, part)
        chain = Chain.of(policy.plan, policy.denoiser, states[0], cond)
        size = states[0, 0].numel() if self.mean else 1
        for k in (*steps, *self._held(policy)):
            m, s = chain.mean(states, k), chain.std(k)
            logprob = gaussian_logprob(states[k + 1], m, s, self.mean)
            old = None if recalled.logprob is None else recalled.logprob[k, part]
            advantage = self.advantage_of_step(experience, k)[part]
            if recalled.later is not None:
                advantage = advantage - self.kl * recalled.later[k, part]
            # with nothing to come after it, KL_k alone is the last step's share of the path KL
            loss = self.surrogate(logprob, old, advantage) if k in steps else torch.zeros_like(logprob)
            figures = {"reward": float(experience.reward[part].mean())}
            if old is not None:
                ratio = (logprob.detach() - old).exp()
                figures |= {
                    "ratio_off": float((ratio - 1).abs().max()),
                    "clipped": float(((ratio - 1).abs() > self.clip).double().mean()),
                }
            if recalled.base is not None and recalled.kl is not None:
                loss = loss + self.kl / size * gaussian_kl(m, recalled.base[k, part], s)
                figures["kl"] = float(recalled.kl[:, part].sum(0).mean())
            yield LossTerm((weight if k in steps else 1.0) * loss.mean(), figures)
