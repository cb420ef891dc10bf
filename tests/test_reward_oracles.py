"""Reward fine-tuning against exact answers: bias of every estimator, dynamic programming, learning runs."""

import math
from dataclasses import dataclass

import pytest
import torch
from oracles import (
    Linear,
    corrected,
    drawn,
    exact_values,
    gaussian_optimum,
    histogram,
    kernels,
    optimum,
    pushed,
    start,
    tilt,
    variation,
    wasserstein,
)
from pullback.guidance import (
    DDPO,
    KL,
    AdjointMatching,
    Advantages,
    DRaFT,
    Estimator,
    Objective,
    OverBatch,
    Policy,
    Scale,
    World,
    memory,
    visited,
)
from pullback.solvers import DATA, DDIM, VP, CosineVP, Denoiser, FlowSDE, Mixture, Plan, RectifiedFlow, UniformLambda
from torch import Tensor

CENTRE, THETA = 0.8, [0.25, -0.1]


@dataclass(frozen=True)
class Raw(Advantages):
    """The reward itself: no baseline."""

    def __call__(self, reward: Tensor, groups: Tensor) -> Tensor:
        return reward


def quadratic(x: Tensor, context: object) -> Tensor:
    return -0.5 * (x[:, 0] - CENTRE) ** 2


def nothing(x: Tensor, context: object) -> Tensor:
    return 0.0 * x[:, 0]


def linear_policy() -> Policy:
    process = VP()
    nets = [Denoiser(Linear(process, 0.5, 0.6, torch.tensor(theta)), process, DATA) for theta in (THETA, [0.0, 0.0])]
    return Policy(nets[0], DDIM(1.0).plan(process, UniformLambda(12, start=1.0, end=0.01)), nets[1])


def gradient(objective: Objective, policy: Policy, seed: int, size: int, reward: object) -> Tensor:
    """Of one update's whole loss."""
    weights, world = list(policy.denoiser.parameters()), World()
    batch = drawn(policy.plan, size, torch.Generator().manual_seed(seed))
    experience = objective.rollout(policy, batch, reward, world)
    (losses,) = objective.updates(policy, batch, experience, reward, world, torch.Generator().manual_seed(seed))
    total = torch.zeros_like(weights[0])
    for loss in losses:
        total += torch.autograd.grad(loss.value, weights)[0]
    return total


def measured(objective: Objective, reward: object, blocks: int = 60, size: int = 1500) -> tuple[Tensor, Tensor]:
    """Mean and standard error of the gradient over independent blocks."""
    policy = linear_policy()
    found = torch.stack([gradient(objective, policy, 100 + seed, size, reward) for seed in range(blocks)])
    return found.mean(0), found.std(0) / math.sqrt(blocks)


def truth() -> tuple[Tensor, Tensor]:
    policy = linear_policy()
    value, kl = exact_values(policy.plan, policy.denoiser, policy.reference, CENTRE)
    (theta,) = policy.denoiser.parameters()
    return (torch.autograd.grad(value, theta, retain_graph=True)[0], torch.autograd.grad(kl, theta)[0])


SF = dict(mode=Estimator.SF, advantage_clip=None)
UNBIASED = {
    "score function": (DDPO(Raw(), **SF), -1.0, 0.0, quadratic),
    "score function, baseline": (DDPO(OverBatch(Scale.NONE), **SF), -1.0, 0.0, quadratic),
    "importance sampling, first pass": (DDPO(OverBatch(Scale.NONE), advantage_clip=None, clip=0.2), -1.0, 0.0, quadratic),
    "pathwise": (DRaFT(), -1.0, 0.0, quadratic),
    "pathwise, path KL": (DRaFT(kl=0.7), -1.0, 0.7, quadratic),
    "path KL, with the rest to go": (DDPO(OverBatch(Scale.NONE), kl=1.0, **SF), 0.0, 1.0, nothing),
}


@pytest.mark.parametrize("name", UNBIASED)
def test_gradient_estimates_are_unbiased(name):
    objective, of_reward, of_kl, reward = UNBIASED[name]
    value, kl = truth()
    mean, error = measured(objective, reward)
    exact = of_reward * value + of_kl * kl
    print(name, mean, error, exact, (mean - exact) / error)
    assert bool(((mean - exact) / error).abs().max() < 3.5)
    assert bool((error < 0.1 * exact.abs()).all())  # a bound that can fail


def test_the_per_step_kl_gradient_is_biased():
    _, kl = truth()
    mean, error = measured(DDPO(OverBatch(Scale.NONE), kl=1.0, penalty=KL.PER_STEP, **SF), nothing)
    print(mean, error, kl, (mean - kl) / error)
    assert bool(((mean - kl) / error).abs().min() > 6)


def test_pathwise_needs_far_fewer_samples():
    """Measured NN with the mean as baseline."""
    value, _ = truth()
    spread = [measured(objective, quadratic, blocks=30, size=300)[1] / value for objective in
              (DDPO(OverBatch(Scale.NONE), **SF), DRaFT())]
    print(float((spread[0] / spread[1]).square().min()))
    assert float((spread[0] / spread[1]).square().min()) > 20
