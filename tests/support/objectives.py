"""A small policy and the gradients of an objective on it, for the tests of objectives."""

from typing import Any

import torch
from oracles import corrected
from problems import MIXTURE
from torch import Tensor

from pullback.guidance import Batch, LossTerm, Objective, Policy
from pullback.guidance.objectives.peers import World
from pullback.solvers import DDIM, VP, Plan, UniformLambda

PROCESS = VP()
PLAN: Any = DDIM(1.0).plan(PROCESS, UniformLambda(6, start=1.0, end=0.02))


def reward(x: Tensor, context: object) -> Tensor:
    return -0.5 * (x.flatten(1) - 1).square().sum(1)


def policy_on(plan: Plan = PLAN, moved: float = 0.1) -> Any:
    """Off its reference by `moved`."""
    policy = corrected(MIXTURE, plan)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in policy.denoiser.parameters():
            p.add_(moved * torch.randn(p.shape, generator=generator))
    return policy


def weights_of(policy: Policy) -> list[Tensor]:
    return [p for p in policy.denoiser.parameters() if p.requires_grad]


def updates(
    objective: Objective, policy: Policy, batch: Batch, world: World | None = None, seed: int = 0
) -> list[list[tuple[LossTerm, Tensor]]]:
    """Each update's loss terms with their gradients (flat), the weights left alone."""
    world, found = world or World(), []
    experience = objective.rollout(policy, batch, reward, world)
    for losses in objective.updates(
        policy, batch, experience, reward, world, torch.Generator().manual_seed(seed)
    ):
        found.append([(loss, flat(loss.value, policy)) for loss in losses])
    return found


def flat(value: Tensor, policy: Policy) -> Tensor:
    weights = weights_of(policy)
    grads = torch.autograd.grad(value, weights, allow_unused=True)
    return torch.cat(
        [(torch.zeros_like(w) if g is None else g).flatten() for g, w in zip(grads, weights, strict=True)]
    )


def gradients(*args, **kwargs) -> list[Tensor]:
    return [torch.stack([grad for _, grad in terms]).sum(0) for terms in updates(*args, **kwargs)]
