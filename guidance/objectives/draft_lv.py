"""DRaFT-LV: the last step's reward gradient with less variance."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from ...adjoint import Direct, PerStep, sample
from ...adjoint.arguments import noise_for
from ...solvers import Plan
from ...solvers.broadcast import per_sample
from ...solvers.instructions import reads, writes
from ...solvers.process import as_time
from ..rewards.asked import evaluate_reward
from ..rewards.base import RewardFunction
from .direct_gradient import DirectGradient
from .kl import KL
from .objective import Batch, LossTerm, Policy


@dataclass(frozen=True, eq=False)
class DRaFTLV(DirectGradient):
    """-mean_i r(last step from alpha x_0 + sigma eps_i), x_0 the rollout held fixed, (alpha, sigma) at the
    last step's opening.

    Args:
        n: noises for each sample; slots S .. S + n - 1 of `Batch.noise`, behind the S of the plan.
        kl: beta; penalty: per step by default, since the reward's gradient itself does not follow the path.
        gradient: of a path KL, and of a last step of several calls; where there is neither, a strategy whose
            gradient is not autograd's is refused.

    Source: Clark et al. 2023, arXiv 2309.17400, section 3 (DRaFT-LV, n = 2). Cost: N + n calls, n VJPs.
    """

    penalty: KL = KL.PER_STEP
    n: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n < 1:
            raise ValueError(f"DRaFTLV: got n={self.n}, expected at least 1")

    def check(self, policy: Policy) -> None:
        super().check(policy)
        _check_last_step(policy.plan)
        tail, path = policy.plan.split(policy.plan.steps - 1)[1], bool(self.kl) and self.penalty is KL.PATH
        self.check_one_call("the last step", alone=tail.nfe == 1 and not path)

    def losses(
        self, policy: Policy, batch: Batch, reward: RewardFunction, generator: torch.Generator
    ) -> Iterator[LossTerm]:
        plan = policy.plan
        _check_last_step(plan)
        if batch.noise is None:
            raise ValueError(
                "DRaFTLV: got a batch without noise, expected a source to draw from anew; pass "
                "noise=Addressed(seed, ids)"
            )
        batch.noise.check(plan.slots + self.n, batch.x)
        drawn = noise_for(plan, batch.noise)
        x0 = sample(policy.denoiser, plan, batch.x, cond=batch.cond, noise=drawn, gradient=None)
        for i in range(self.n):
            x = noised_to_last_step(plan, x0, batch.noise(plan.slots + i, x0))
            end = self.last_step(policy, x, batch)
            rewards = evaluate_reward(reward, end, batch.context, differentiable=True)
            yield LossTerm(
                -rewards.mean() / self.n, {"reward": float(rewards.detach().mean())}, rewards.detach()
            )
        yield from self.penalty_alone(policy, batch)

    def last_step(self, policy: Policy, x: Tensor, batch: Batch) -> Tensor:
        """The plan's last step from x. A single call has nothing to choose: its activations are kept."""
        plan = policy.plan
        tail = plan.split(plan.steps - 1)[1]
        cond = tree_map_only(PerStep, lambda leaf: PerStep(leaf.values[-1:]), batch.cond)
        gradient = self.gradient if tail.nfe > 1 else Direct()
        return sample(
            policy.denoiser, tail, x, cond=cond, noise=noise_for(plan, batch.noise), gradient=gradient
        )


def noised_to_last_step(plan: Plan, x0: Tensor, eps: Tensor) -> Tensor:
    """alpha x_0 + sigma eps at the opening of the last step."""
    t = as_time(plan.times[-2])
    alpha, sigma = (per_sample(level(t).to(x0), x0) for level in (plan.process.alpha, plan.process.sigma))
    return alpha * x0 + sigma * eps


def _check_last_step(plan: Plan) -> None:
    """Raise ValueError where the last step needs more than the state x, such as a multistep history."""
    known = {"x"}
    for op in plan.step(plan.steps - 1):
        missing = set(reads(op)) - known
        if missing:
            raise ValueError(
                f"DRaFTLV: got {plan.name}, whose last step reads {sorted(missing)} from earlier ones, "
                "expected a step from x alone; take DDIM, or a grid to sigma = 0"
            )
        known |= set(writes(op))
