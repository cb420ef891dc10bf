"""The guide behind `smc`: weighs particles after every step and resamples them."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...solvers import Addressed, Model, Plan
from ..guides.context import Context
from ..guides.guide import Guide, Hook, Twist
from ..rewards.base import RewardFunction
from ..rewards.values import as_values
from .layout import flat_index
from .potentials import Potential
from .resampling import Resampling, ess, uniform_draws


@dataclass(frozen=True, eq=False)
class Weighing(Guide):
    """Weighs particles after every step, resamples them where their weights have degenerated; see `smc`.

    Args:
        shape: (B, K). context: of the reward, for B K states. source: what resampling is drawn with.
        noisy: the steps that draw noise. Elsewhere a proposal has no density to weigh it by, and is left out.
    """

    reward: RewardFunction
    context: Any
    shape: tuple[int, int]
    beta: float
    proposal: Guide
    noisy: frozenset[int]
    potential: Potential
    resampling: Resampling
    threshold: float
    source: Addressed

    @property
    def name(self) -> str:
        return f"proposal {self.proposal.name}"

    def hooks(self) -> frozenset[Hook]:
        return self.proposal.hooks() | {Hook.ACCEPT}

    def check(self, denoiser: Model, plan: Plan, x: Tensor) -> None:
        self.proposal.check(denoiser, plan, x)

    def graph(self, step: int, steps: int) -> bool:
        return step in self.noisy and self.proposal.graph(step, steps)

    def data(self, ctx: Context, data: Tensor) -> Tensor:
        return self.proposal.data(ctx, data) if ctx.step in self.noisy else data

    def velocity(self, ctx: Context, velocity: Tensor) -> Tensor:
        return self.proposal.velocity(ctx, velocity) if ctx.step in self.noisy else velocity

    def accept(self, ctx: Context, x: Tensor) -> Tensor | None:
        memory, last = ctx.memory(self), ctx.step + 1 == ctx.steps
        if not memory:
            zero = torch.zeros(self.shape, dtype=torch.float64, device=x.device)
            memory.update(log_w=zero, given=zero, log_z=zero[:, 0], rewards=[], ess=[], resampled=[])
            memory["founders"] = torch.arange(self.shape[1], device=x.device).expand(self.shape)
        rewards = [*memory["rewards"], self._seen(ctx, memory["rewards"])]
        gain = self.potential(torch.stack(rewards))
        given = memory["given"] + gain  # log of the product of all potentials of the lineage
        if last:  # together they must come to exp(r(x_N)/beta)
            final = self._scaled(x)
            gain, given = gain + final - given, final
        log_w, correction = memory["log_w"] + gain, self._correction(ctx, x)
        if last:
            log_w = log_w + correction
        size = ess(log_w.detach())
        chosen = (size <= self.threshold * self.shape[1]) & (not last)
        ancestors = torch.arange(self.shape[1], device=x.device).expand(self.shape)
        if bool(chosen.any()):
            drawn = self.resampling(log_w.detach().softmax(1), uniform_draws(self.source, ctx.step, log_w))
            ancestors = torch.where(chosen[:, None], drawn, ancestors)
            memory["log_z"] = memory["log_z"] + torch.where(chosen, log_mean(log_w), 0.0)
            # 0, and the gradient of the log of the weight that a particle was chosen by: see `smc`
            share = torch.where(chosen[:, None], log_w, 0.0).log_softmax(1).gather(1, ancestors)
            log_w = torch.where(chosen[:, None], share - share.detach(), log_w)
            given, correction, *rewards = _inherited([given, correction, *rewards], ancestors)
            memory["founders"] = memory["founders"].gather(1, ancestors)
        memory.update(log_w=log_w if last else log_w + correction, given=given, rewards=rewards)
        memory["ess"].append(size)
        memory["resampled"].append(chosen)
        return flat_index(ancestors) if bool(chosen.any()) else None

    def _correction(self, ctx: Context, x: Tensor) -> Tensor:
        """log p(x_{k+1} | x_k) - log q(x_{k+1} | x_k), (B, K): what a proposal's step owes to the sampler's own."""
        if not self.proposal.hooks() or ctx.step not in self.noisy:
            return torch.zeros(self.shape, dtype=torch.float64, device=x.device)
        own, proposed = ctx.log_transition(x, guided=False), ctx.log_transition(x, guided=True)
        return (own.double() - proposed.double()).reshape(self.shape)

    def _seen(self, ctx: Context, before: list[Tensor]) -> Tensor:
        """r_k, (B, K): the proposal's own log p(y | x_k) over beta where it has one, else the reward of D(x_k).

        Where that is -inf, r_{k-1}: a prediction of no weight may yet lead to an end that has one, and a lineage once
        weighed by 0 could not be weighed right any more. Only the last reward can say that it has none.
        """
        last = before[-1] if before else torch.zeros(self.shape, dtype=torch.float64, device=ctx.x.device)
        if not isinstance(self.proposal, Twist):
            known = (1 - ctx.prior_variance).flatten().double().expand(len(ctx.x)).reshape(self.shape)
            reward = self._scaled(ctx.data)
            return torch.where(reward.isneginf(), last, self.potential.counted(reward, known))
        if ctx.step not in self.noisy:  # the proposal was left out
            return last
        reward = self.proposal.log_likelihood(ctx).double().reshape(self.shape) / self.beta
        return torch.where(reward.isneginf(), last, reward)

    def _scaled(self, x: Tensor) -> Tensor:
        """The reward over beta, (B, K), of states (B K, ...)."""
        return live_rewards(self.reward, x, self.context).reshape(self.shape) / self.beta


def particle_rewards(reward: RewardFunction, x: Tensor, context: Any) -> Tensor:
    """As `live_rewards`, without a graph."""
    return live_rewards(reward, x, context).detach()


def live_rewards(reward: RewardFunction, x: Tensor, context: Any) -> Tensor:
    """The rewards (B K,) of states (B K, ...), float64.

    Raises ValueError for another shape and FloatingPointError for nan or +inf, which would take all the weight
    or none; -inf, a particle of no weight, is legal.
    """
    value = as_values("reward", reward(x, context), x)
    if value.shape != (len(x),):
        raise ValueError(
            f"reward: got shape {tuple(value.shape)}, expected ({len(x)},): one value per particle"
        )
    value = value.double()
    if not bool((value < torch.inf).all()):
        worst = int((~(value < torch.inf)).nonzero()[0])
        raise FloatingPointError(
            f"reward: got {float(value[worst])} for particle {worst} of {len(x)} (sample by sample), "
            "expected a number or -inf; mend the reward there"
        )
    return value


def log_mean(log_w: Tensor) -> Tensor:
    """log of the mean weight (B,) of log weights (B, K)."""
    return log_w.logsumexp(1) - math.log(log_w.shape[1])


def relative_variance(log_w: Tensor, founders: Tensor, resampled: Tensor) -> Tensor:
    """Estimate (B,) of Var[Z]/E[Z]^2 for Z = mean exp(log_w) from one run: 1 - (K/(K-1))^(r+1) (1 - sum_f W_f^2),
    W_f the normalised weight of all that descend from first particle f, r (B,) how often was resampled.

    Without resampling the sample variance of the weights over K. nan for K = 1.

    Args:
        log_w, founders: (B, K), founders by number.

    Source: Lee and Whiteley 2018, Variance estimation in the particle filter, Biometrika 105, eq. 6 (multinomial
    resampling; an upper bound for the schemes that vary less).
    """
    log_w, count = log_w.detach(), log_w.shape[1]
    if count == 1:
        return torch.full_like(log_w[:, 0], torch.nan)
    families = torch.zeros_like(log_w).scatter_add(1, founders, log_w.softmax(1))
    apart = 1 - families.square().sum(
        1
    )  # the chance that two particles drawn by weight have different founders
    return (1 - (count / (count - 1)) ** (resampled.to(log_w) + 1) * apart).clamp(min=0.0)


def _inherited(values: list[Tensor], ancestors: Tensor) -> list[Tensor]:
    """Each of `values` (B, K) as the particles' ancestors (B, K) had it."""
    return [value.gather(1, ancestors) for value in values]
