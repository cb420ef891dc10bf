"""What direct-gradient objectives share: reward and KL differentiated along the sampler."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ...adjoint import Checkpoint, Gradient, Truncated, sample, trajectory
from ..rewards.asked import evaluate_reward
from ..rewards.base import RewardFunction
from .chain import Chain, visited
from .kl import KL
from .likelihood import gaussian_kl
from .objective import Batch, Experience, LossTerm, Objective, Policy
from .peers import World
from .requirements import penalised, reference, require_trainable


@dataclass(frozen=True, eq=False, kw_only=True)
class DirectGradient(Objective):
    """Descends -r(x_N) + beta KL by differentiating the sampler; needs a differentiable reward and no
    stochastic plan.
    """

    kl: float = 0.0
    penalty: KL = KL.PATH

    def __post_init__(self) -> None:
        if not self.kl >= 0:
            raise ValueError(
                f"{type(self).__name__}: got kl={self.kl}, expected >= 0, in units of reward per nat"
            )

    def check(self, policy: Policy) -> None:
        require_trainable(policy)
        if self.kl:
            penalised(policy, self)

    def rollout(
        self, policy: Policy, batch: Batch, reward: RewardFunction, world: World
    ) -> Experience | None:
        return None

    def updates(
        self,
        policy: Policy,
        batch: Batch,
        experience: Experience | None,
        reward: RewardFunction,
        world: World,
        generator: torch.Generator,
    ) -> Iterator[Iterator[LossTerm]]:
        yield self.losses(policy, batch, reward, generator)

    @abstractmethod
    def losses(
        self, policy: Policy, batch: Batch, reward: RewardFunction, generator: torch.Generator
    ) -> Iterator[LossTerm]:
        """The pieces of one update."""


def strategy(plan_steps: int, last: int | None) -> Gradient:
    """All steps by `Checkpoint`, or the last `last`; those before then run without a graph."""
    return Checkpoint() if last is None or last >= plan_steps else Truncated(last)


def along(
    policy: Policy, batch: Batch, reward: RewardFunction, last: int | None, kl: float, penalty: KL
) -> Iterator[LossTerm]:
    """-r(x_N) through the last `last` steps (None: all) and the KL penalty.

    KL.PATH goes through the same steps as the reward: truncated with it, the KL's gradient is truncated too.
    """
    gradient = strategy(policy.plan.steps, last)
    if not kl or penalty is KL.PER_STEP:
        x0 = sample(
            policy.denoiser, policy.plan, batch.x, cond=batch.cond, noise=batch.noise, gradient=gradient
        )
        rewards = evaluate_reward(reward, x0, batch.context, differentiable=True)
        yield LossTerm(-rewards.mean(), {"reward": float(rewards.detach().mean())}, rewards.detach())
        if kl:
            yield from kl_losses(policy, batch, kl, penalty)
        return
    states = trajectory(
        policy.denoiser,
        policy.plan,
        batch.x,
        range(policy.plan.steps + 1),
        cond=batch.cond,
        noise=batch.noise,
        gradient=gradient,
    )
    rewards, divergence = (
        evaluate_reward(reward, states[-1], batch.context, differentiable=True),
        pathwise_kl(policy, batch, states),
    )
    figures = {"reward": float(rewards.detach().mean()), "kl": float(divergence.detach().mean())}
    yield LossTerm((kl * divergence - rewards).mean(), figures, rewards.detach())


def kl_losses(policy: Policy, batch: Batch, kl: float, penalty: KL) -> Iterator[LossTerm]:
    """beta KL by itself: of the path, pathwise through the whole chain, or step by step at visited states
    held fixed.
    """
    if penalty is KL.PATH:
        states = trajectory(
            policy.denoiser,
            policy.plan,
            batch.x,
            range(policy.plan.steps + 1),
            cond=batch.cond,
            noise=batch.noise,
            gradient=Checkpoint(),
        )
        divergence = pathwise_kl(policy, batch, states)
        yield LossTerm(kl * divergence.mean(), {"kl": float(divergence.detach().mean())})
        return
    states = visited(policy, batch)
    chain = Chain.of(policy.plan, policy.denoiser, states[0], batch.cond)
    base = Chain.of(policy.plan, reference(policy, "for the KL penalty"), states[0], batch.cond)
    total = 0.0
    for k in chain.transitions.stochastic:
        with torch.no_grad():
            m0 = base.mean(states, k)
        step = gaussian_kl(chain.mean(states, k), m0, chain.std(k)).mean()
        total += float(step.detach())
        yield LossTerm(kl * step, {"kl": total} if k == chain.transitions.stochastic[-1] else {})


def pathwise_kl(policy: Policy, batch: Batch, states: Sequence[Tensor]) -> Tensor:
    """sum_k |m_k - m0_k|^2/(2 s_k^2), (B,), in nats, along the policy's own states with their graph.

    m_k = x_{k+1} - s_k xi_k costs no call of the policy (and leaves a round-off of eps |x|/s_k in the
    difference). Cost: per step a call of the reference, its replay and a VJP; one call's graph at a time.
    """
    base = Chain.of(policy.plan, reference(policy, "for the KL penalty"), states[0], batch.cond)
    found, noise = base.transitions, batch.noise
    total = torch.zeros_like(base.like.flatten(1)[:, 0])
    for k in found.stochastic:
        window, slot = found.window(k), found.slots[k]
        assert slot is not None and noise is not None

        def frozen(*inner: Tensor, k: int = k, window: tuple[int, ...] = window) -> Tensor:
            at = dict(zip(window, inner, strict=True))
            return base.mean([at.get(j, states[j]) for j in range(k + 1)], k)

        m0 = checkpoint(frozen, *(states[j] for j in window), use_reentrant=False)
        assert isinstance(m0, Tensor)
        s = base.std(k)
        total = total + gaussian_kl(states[k + 1] - s * noise(slot, base.like), m0, s)
    return total
