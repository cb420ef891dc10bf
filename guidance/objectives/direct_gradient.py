"""Direct gradients: reward and KL differentiated through the sampler; what DRaFT, AlignProp and ReFL share."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ...adjoint import AdjointDEIS, Auto, Continuous, Gradient, Input, JacobianFree, Truncated, trajectory
from ...adjoint.arguments import noise_for
from ...solvers.wanted import Finite
from ..rewards.asked import evaluate_reward
from ..rewards.base import RewardFunction
from .chain import Chain, reference_chain, visited
from .kl import KL
from .likelihood import gaussian_kl
from .objective import Batch, Experience, LossTerm, Objective, Policy
from .peers import World
from .requirements import check_path_kl, require_trainable


@dataclass(frozen=True, eq=False, kw_only=True)
class DirectGradient(Objective):
    """Descends -r(x_N) + beta KL by differentiating the sampler; needs a differentiable reward, and a stochastic
    plan for a KL only.

    Args:
        kl: beta, reward per nat of KL to `policy.reference`. penalty: see `KL`.
        gradient: the strategy that differentiates the run.
    """

    kl: Finite = 0.0
    penalty: KL = KL.PATH
    gradient: Gradient = Auto()

    def __post_init__(self) -> None:
        if not self.kl >= 0:
            raise ValueError(
                f"{type(self).__name__}: got kl={self.kl}, expected >= 0, in units of reward per nat"
            )

    def check(self, policy: Policy) -> None:
        require_trainable(policy)
        self.gradient.check(policy.plan, [Input.PARAMETERS])
        if self.kl:
            check_path_kl(policy, self)

    def check_one_call(self, what: str, *, alone: bool) -> None:
        """Raise ValueError where `gradient` is another gradient than autograd's and nothing would carry it out.

        Args:
            alone: whether autograd through one call is all that this objective differentiates.
        """
        other = (AdjointDEIS, Continuous, JacobianFree, Truncated)
        if alone and isinstance(self.gradient, other):
            raise ValueError(
                f"{type(self).__name__}: got gradient={self.gradient}, expected Auto(), Checkpoint() or Direct(): "
                f"{what} is one network call, whose gradient is autograd's; leave gradient out"
            )

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
        """The terms of one update's loss."""

    def reward_through_last_steps(
        self, last: int | None, policy: Policy, batch: Batch, reward: RewardFunction
    ) -> Iterator[LossTerm]:
        """-r(x_N) + beta KL with the gradient of the sampler's last `last` steps (None: of all), the steps
        before run without a graph.

        KL.PATH is differentiated through the same steps as the reward: truncated with it.
        """
        plan = policy.plan
        gradient = self.gradient if last is None or last >= plan.steps else Truncated(last, self.gradient)
        with_path = bool(self.kl) and self.penalty is KL.PATH
        nodes = range(plan.steps + 1) if with_path else [plan.steps]
        states = trajectory(
            policy.denoiser,
            plan,
            batch.x,
            nodes,
            cond=batch.cond,
            noise=noise_for(plan, batch.noise),
            gradient=gradient,
        )
        rewards = evaluate_reward(reward, states[-1], batch.context, differentiable=True)
        loss, figures = -rewards, {"reward": float(rewards.detach().mean())}
        if with_path:
            divergence = pathwise_kl(policy, batch, states)
            loss, figures["kl"] = self.kl * divergence + loss, float(divergence.detach().mean())
        yield LossTerm(loss.mean(), figures, rewards.detach())
        if not with_path:
            yield from self.penalty_alone(policy, batch)

    def penalty_alone(self, policy: Policy, batch: Batch) -> Iterator[LossTerm]:
        """beta KL by itself, beside a reward that is not differentiated along the path; nothing at beta = 0.

        KL.PATH: through the whole chain. KL.PER_STEP: a term for each step, at visited states held fixed.
        """
        if not self.kl:
            return
        plan = policy.plan
        if self.penalty is KL.PATH:
            states = trajectory(
                policy.denoiser,
                plan,
                batch.x,
                range(plan.steps + 1),
                cond=batch.cond,
                noise=noise_for(plan, batch.noise),
                gradient=self.gradient,
            )
            divergence = pathwise_kl(policy, batch, states)
            yield LossTerm(self.kl * divergence.mean(), {"kl": float(divergence.detach().mean())})
            return
        visits = visited(policy, batch)
        chain = Chain.of(plan, policy.denoiser, visits[0], batch.cond)
        base = reference_chain(policy, visits[0], batch.cond)
        steps, total = chain.transitions.stochastic, 0.0
        for k in steps:
            with torch.no_grad():
                m0 = base.mean(visits, k)
            step = gaussian_kl(chain.mean(visits, k), m0, chain.std(k)).mean()
            total += float(step.detach())
            yield LossTerm(self.kl * step, {"kl": total} if k == steps[-1] else {})


def pathwise_kl(policy: Policy, batch: Batch, states: Sequence[Tensor]) -> Tensor:
    """sum_k |m_k - m0_k|^2/(2 s_k^2), (B,), in nats, along the policy's own states with their graph.

    m_k = x_{k+1} - s_k xi_k costs no call of the policy (and leaves a round-off of eps |x|/s_k in the
    difference). Cost: per step a call of the reference, its replay and a VJP; one call's graph at a time.
    """
    base, noise = reference_chain(policy, states[0], batch.cond), batch.noise
    steps = base.transitions
    total = torch.zeros_like(base.like.flatten(1)[:, 0])

    def base_mean(k: int, window: tuple[int, ...], *read: Tensor) -> Tensor:
        """m0_k from the states that step k reads: arguments, so that `checkpoint` carries a gradient to them."""
        given = dict(zip(window, read, strict=True))
        return base.mean([given.get(j, states[j]) for j in range(k + 1)], k)

    for k in steps.stochastic:
        window, slot = steps.window(k), steps.slots[k]
        assert slot is not None and noise is not None
        m0 = checkpoint(base_mean, k, window, *(states[j] for j in window), use_reentrant=False)
        assert isinstance(m0, Tensor)
        s = base.std(k)
        m = states[k + 1] - s * noise(slot, base.like)
        total = total + gaussian_kl(m, m0, s)
    return total
