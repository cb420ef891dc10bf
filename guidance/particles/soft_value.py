"""SVDD, CoDe and best-of-N: one lineage goes on, chosen among K children by the reward of where they lead."""

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from ...solvers import Addressed, Model, Plan
from ...solvers.checked import checked
from ...solvers.wanted import OWN_WORDS, Samples
from ..guides.context import Context
from ..guides.guide import Guide
from ..guides.steering import Steered, steer
from ..rewards.base import RewardFunction
from .layout import RESAMPLING, ParticleNoise, check_particles, flat_index, for_particles, in_stream
from .resampling import uniform_draws
from .weighing import particle_rewards


@dataclass(frozen=True, eq=False)
class Choosing(Guide):
    """The guide behind `svdd`: after every `every`-th step one of a sample's K children takes the places of all.

    Args:
        shape: (B, K). context: of the reward, for B K states. source: what the choice is drawn with.
    """

    reward: RewardFunction
    shape: tuple[int, int]
    context: Any
    beta: float
    every: int
    source: Addressed

    def accept(self, ctx: Context, x: Tensor) -> Tensor | None:
        last = ctx.step + 1 == ctx.steps
        if (ctx.step + 1) % self.every and not last:
            return None
        value = particle_rewards(self.reward, x if last else ctx.data_after(x), self.context).reshape(
            self.shape
        )
        if self.beta:
            value = torch.where(value.isneginf().all(1, keepdim=True), 0.0, value)  # all alike: any of them
            edges = (value / self.beta).softmax(1).cumsum(1)
            points = uniform_draws(self.source, ctx.step, value[:, :1])
            index = torch.searchsorted(edges, points).clamp(max=self.shape[1] - 1)
        else:
            index = value.argmax(1, keepdim=True)
        return flat_index(index.expand(self.shape))


@checked
def svdd(
    denoiser: Model,
    plan: Plan,
    x: Samples,
    reward: RewardFunction,
    noise: Annotated[Addressed, OWN_WORDS],
    *,
    children: int = 8,
    beta: float = 0.0,
    every: int = 1,
    cond: Any = None,
    context: Any = None,
    progress: bool = False,
) -> Steered:
    """One lineage a sample: after every `every`-th step draw one of its children with probability
    softmax(r(D(x))/beta).

    beta = 0 takes the best. every = plan.steps is best-of-N, values in between CoDe's blocks. Steers towards
    reward without weights: the law is not p exp(r/beta)/Z; `smc` gives that.

    Args:
        x: (B, ...) starting states, shared by a sample's children. reward, context, noise: as for `smc`.

    Source: Li et al. 2024 (SVDD), arXiv 2408.08252, algorithm 1; Singh et al. 2025 (CoDe), arXiv 2502.00968.
    Cost: children times (plan.nfe + plan.steps/every) network calls a sample.
    """
    if children < 1 or every < 1 or beta < 0:
        raise ValueError(
            f"svdd: got children={children}, every={every}, beta={beta}, expected children, every >= 1, beta "
            ">= 0"
        )
    check_particles(x[:, None], noise)
    shape = (len(x), children)
    source = in_stream(noise, RESAMPLING)
    guide = Choosing(reward, shape, for_particles(context, *shape), beta, every, source)
    run = steer(
        denoiser,
        plan,
        x.repeat_interleave(children, 0),
        guide,
        cond=for_particles(cond, *shape),
        noise=ParticleNoise(noise, children) if plan.slots else None,
        progress=progress,
    )
    return Steered(run.sample[::children], run.losses[:, ::children], run.nfe, run.vjps, noise.seed, {})


@checked
def best_of(
    denoiser: Model,
    plan: Plan,
    x: Tensor,
    reward: RewardFunction,
    noise: Annotated[Addressed | None, OWN_WORDS] = None,
    *,
    cond: Any = None,
    context: Any = None,
) -> Tensor:
    """The sample of highest reward of K, (B, ...), from starting states x (B, K, ...). Cost: K plan.nfe calls
    a sample.
    """
    source = Addressed(0) if noise is None else noise
    check_particles(x, source)
    shape = (x.shape[0], x.shape[1])
    guide = Choosing(reward, shape, for_particles(context, *shape), 0.0, plan.steps, source)
    run = steer(
        denoiser,
        plan,
        x.flatten(0, 1),
        guide,
        cond=for_particles(cond, *shape),
        noise=ParticleNoise(source, shape[1]) if plan.slots else None,
    )
    return run.sample[:: shape[1]]
