"""Adjoint Matching: reward fine-tuning as a regression on the lean adjoint."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ...solvers import ClassifierFree, Model
from ...solvers.wanted import Finite
from ..rewards.asked import evaluate_reward
from ..rewards.base import RewardFunction
from .chain import Chain, visited
from .lean_adjoint import Pairing, adjoint_matching_loss, adjoint_path
from .likelihood import gaussian_kl
from .objective import Batch, Experience, LossTerm, Objective, Policy
from .peers import World, draw_steps
from .requirements import check_path_kl, require_gaussian_steps, require_reference, require_trainable


@dataclass(frozen=True, eq=False)
class AdjointMatching(Objective):
    """sum_k |(m_k - m0_k)/s_k + s_k a_{k+1}|^2/2 at visited states, a the lean adjoint from a_N = -grad r/beta.

    Its fixed point is, up to O(1/N), the policy of the KL-regularised optimum; for a memoryless plan that
    samples the reference tilted by exp(r/beta). The reward is differentiated at the sample, the sampler
    through the reference.

    Args:
        kl: beta = 1/lambda, reward per nat; the paper's port uses lambda = 100 with ImageReward. Never 0.
        sampled: steps trained of each rollout, half of them out of the first 60 %, weighted to stand for all;
            None: all.
        pairing: see `Pairing`.
        guided: under ClassifierFree, use guidance in adjoint and control too; by default only rollouts are
            guided, since guided adjoints grow without bound.

    Source: Domingo-Enrich et al. 2024, arXiv 2409.08861, algorithm 1; defaults of the Stable Diffusion port
    (50 steps of DDIM(eta=1), 4 steps sampled). Cost: N calls to sample, N calls and VJPs of the reference,
    then two calls and a VJP per trained step. Memory: 2 (N + 1) states and one call's graph.
    """

    kl: Finite = 0.01
    sampled: int | None = 4
    pairing: Pairing = Pairing.RIGHT
    guided: bool = False

    def __post_init__(self) -> None:
        if not self.kl > 0 or (self.sampled is not None and self.sampled < 2):
            raise ValueError(
                f"AdjointMatching: got kl={self.kl}, sampled={self.sampled}, expected kl > 0 (beta = "
                "1/lambda) and at least 2 steps, or None for all"
            )

    def check(self, policy: Policy) -> None:
        require_trainable(policy)
        check_path_kl(policy, self)

    def rollout(self, policy: Policy, batch: Batch, reward: RewardFunction, world: World) -> Experience:
        states = visited(policy, batch)
        with torch.enable_grad():
            end = states[-1].detach().requires_grad_()
            rewards = evaluate_reward(reward, end, batch.context, differentiable=True)
            (slope,) = torch.autograd.grad(rewards.sum(), end)
        adjoint = adjoint_path(self._base(policy, states, batch), states, -slope / self.kl)
        return Experience(batch, rewards.detach(), states, {"adjoint": adjoint})

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
        yield self._losses(policy, batch, experience, generator)

    def _base(self, policy: Policy, states: torch.Tensor, batch: Batch) -> Chain:
        return self._chain(policy, require_reference(policy, "for the adjoint"), states, batch)

    def _chain(self, policy: Policy, model: Model, states: torch.Tensor, batch: Batch) -> Chain:
        return Chain.of(policy.plan, model if self.guided else unguided(model), states[0], batch.cond)

    def _losses(
        self, policy: Policy, batch: Batch, experience: Experience, generator: torch.Generator
    ) -> Iterator[LossTerm]:
        states, adjoint = experience.states, experience.extra["adjoint"]
        assert states is not None
        chain, base = self._chain(policy, policy.denoiser, states, batch), self._base(policy, states, batch)
        for k, weight in self._trained(policy, generator):
            with torch.no_grad():
                m0 = base.mean(states, k)
            m, s = chain.mean(states, k), chain.std(k)
            value = adjoint_matching_loss(m, m0, s, adjoint[k + self.pairing.value])
            yield LossTerm(
                weight * value.mean(),
                {
                    "reward": float(experience.reward.mean()),
                    "matching": float(value.detach().mean()),
                    "kl_of_a_step": float(gaussian_kl(m.detach(), m0, s).mean()),
                },
            )

    def _trained(self, policy: Policy, generator: torch.Generator) -> list[tuple[int, float]]:
        """(step, weight), the weights adding up to the number of steps."""
        steps = list(require_gaussian_steps(policy.plan, self).stochastic)
        if self.sampled is None or self.sampled >= len(steps):
            return [(k, 1.0) for k in steps]
        cut, half = round(0.6 * len(steps)), self.sampled // 2
        found = []
        for part, count in ((steps[:cut], half), (steps[cut:], self.sampled - half)):
            chosen = draw_steps(part, count, generator)
            found += [(k, len(part) / len(chosen)) for k in chosen]
        return found


def unguided(model: Model) -> Model:
    """The model inside classifier-free guidance, or the model itself."""
    return model.denoiser if isinstance(model, ClassifierFree) else model
