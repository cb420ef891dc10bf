"""Policy gradients over the steps of a sampler: what DDPO, DPOK, Flow-GRPO and DanceGRPO share."""

import warnings
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..rewards.asked import evaluate_reward
from ..rewards.base import RewardFunction
from .advantages import Advantages, OverBatch
from .chain import Chain, rows, visited
from .kl import KL, to_go
from .likelihood import gaussian_kl, gaussian_logprob
from .objective import Batch, Experience, LossTerm, Objective, Policy
from .peers import World, everyone, minibatches, own, some
from .requirements import gaussian, penalised, reference, require_trainable


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
    kl: float = 0.0
    penalty: KL = KL.PATH
    passes: int = 1
    minibatches: int = 1
    clip: float = 1e-4
    advantage_clip: float | None = 5.0
    mean: bool = True
    fraction: float = 1.0
    skip_last: bool = False

    def __post_init__(self) -> None:
        who = type(self).__name__
        if (
            self.kl < 0
            or self.passes < 1
            or self.minibatches < 1
            or not 0 < self.fraction <= 1
            or not self.clip > 0
        ):
            raise ValueError(
                f"{who}: got kl={self.kl}, passes={self.passes}, minibatches={self.minibatches}, "
                f"clip={self.clip}, fraction={self.fraction}, expected kl >= 0, passes and minibatches >= 1, "
                "clip > 0, 0 < fraction <= 1"
            )

    @abstractmethod
    def surrogate(self, logprob: Tensor, old: Tensor | None, weight: Tensor) -> Tensor:
        """The loss (B,) of one step with weight (B,) in place of the advantage."""

    @property
    def needs_old(self) -> bool:
        """Whether `surrogate` compares with the rollout's log-probabilities."""
        return True

    def check(self, policy: Policy) -> None:
        require_trainable(policy)
        found = gaussian(policy.plan, self)
        if not self._steps(policy):
            raise ValueError(
                f"{type(self).__name__}: got {policy.plan.name} with noise in its last step only, which is "
                "not trained; expected noise in an earlier one"
            )
        if self.kl:
            penalised(policy, self)
        if found.excluded:
            warnings.warn(
                f"{type(self).__name__}: steps {list(found.excluded)} of {policy.plan.name} draw no noise: "
                "they have no log-probability and are not trained",
                stacklevel=2,
            )

    def rollout(self, policy: Policy, batch: Batch, reward: RewardFunction, world: World) -> Experience:
        states = visited(policy, batch)
        rewards = evaluate_reward(reward, states[-1], batch.context)
        whole, groups = everyone(world, rewards), everyone(world, batch.groups)
        found = own(world, self.advantages(whole, groups))
        if self.advantage_clip is not None:
            found = found.clamp(-self.advantage_clip, self.advantage_clip)
        return Experience(batch, rewards, states, {"advantages": found})

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
        steps = self._steps(policy)
        weight = 1.0
        if self.fraction < 1:
            chosen = some(steps, max(1, round(self.fraction * len(steps))), generator)
            weight, steps = len(steps) / len(chosen), chosen
        recalled = None
        for _ in range(self.passes):
            parts = minibatches(len(batch), self.minibatches, world, generator)
            recalled = recalled or self._recall(policy, experience, parts, world)
            for part in parts:
                yield self._losses(policy, experience, recalled, part, steps, weight)

    def state(self) -> dict[str, Any]:
        return {"advantages": self.advantages.state()}

    def load(self, state: dict[str, Any]) -> None:
        self.advantages.load(state["advantages"])

    def weights(self, experience: Experience, step: int) -> Tensor:
        """What the reward weighs step `step` with, (B,), before the KL still to come is taken off."""
        return experience.extra["advantages"]

    def _steps(self, policy: Policy) -> list[int]:
        steps = list(gaussian(policy.plan, self).stochastic)
        return [k for k in steps if k < policy.plan.steps - 1] if self.skip_last else steps

    def _held(self, policy: Policy) -> list[int]:
        """The steps that earn no reward and yet pay their KL: the last one where it is skipped."""
        trained = self._steps(policy)
        return [k for k in gaussian(policy.plan, self).stochastic if self.kl and k not in trained]

    def _recall(
        self, policy: Policy, experience: Experience, parts: list[Tensor], world: World
    ) -> "_Recalled":
        """Figures of the rollout's policy: in the shapes of the updates, so that the first ratio is 1 to the
        last bit.
        """
        assert experience.states is not None
        found = gaussian(policy.plan, self)
        size, n = len(experience.reward), policy.plan.steps
        old = experience.states.new_zeros(n, size) if self.needs_old else None
        kl = experience.states.new_zeros(n, size) if self.kl else None
        base = torch.zeros_like(experience.states[:n]) if self.kl else None
        if old is None and kl is None:
            return _Recalled(None, None, None, None)
        with torch.no_grad():
            for part in parts:
                states, chain, frozen = self._bound(policy, experience, part)
                for k in found.stochastic:
                    m, s = chain.mean(states, k), chain.std(k)
                    if old is not None:
                        old[k, part] = gaussian_logprob(states[k + 1], m, s, self.mean).to(old.dtype)
                    if frozen is not None and kl is not None and base is not None:
                        base[k, part] = frozen.mean(states, k)
                        kl[k, part] = gaussian_kl(m, base[k, part], s).to(kl.dtype)
        later = None
        if kl is not None and self.penalty is KL.PATH:
            later = to_go(kl)
            later = later - everyone(world, later.T).mean(0)[:, None]
        return _Recalled(old, kl, base, later)

    def _bound(
        self, policy: Policy, experience: Experience, part: Tensor
    ) -> tuple[Tensor, Chain, Chain | None]:
        assert experience.states is not None
        states, size = experience.states, len(experience.reward)
        whole = len(part) == size
        states = states if whole else states[:, part]
        cond = experience.batch.cond if whole else rows(experience.batch.cond, part, size)
        frozen = (
            Chain.of(policy.plan, reference(policy, "for the KL penalty"), states[0], cond)
            if self.kl
            else None
        )
        return states, Chain.of(policy.plan, policy.denoiser, states[0], cond), frozen

    def _losses(
        self,
        policy: Policy,
        experience: Experience,
        recalled: "_Recalled",
        part: Tensor,
        steps: list[int],
        scale: float,
    ) -> Iterator[LossTerm]:
        states, chain, _ = self._bound(policy, experience, part)
        size = states[0, 0].numel() if self.mean else 1
        for k in (*steps, *self._held(policy)):
            m, s = chain.mean(states, k), chain.std(k)
            logprob = gaussian_logprob(states[k + 1], m, s, self.mean)
            old = None if recalled.old is None else recalled.old[k, part]
            weight = self.weights(experience, k)[part]
            if recalled.later is not None:
                weight = weight - self.kl * recalled.later[k, part]
            # with nothing to come after it, KL_k alone is the last step's share of the path KL
            loss = self.surrogate(logprob, old, weight) if k in steps else torch.zeros_like(logprob)
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
            yield LossTerm((scale if k in steps else 1.0) * loss.mean(), figures)


@dataclass(frozen=True, eq=False)
class _Recalled:
    """Of the rollout's policy, (N, B) each: log-probabilities, KL_k, base means (N, B, ...), centred KL still
    to come.
    """

    old: Tensor | None
    kl: Tensor | None
    base: Tensor | None
    later: Tensor | None
