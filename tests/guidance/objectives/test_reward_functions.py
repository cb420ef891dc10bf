"""Pure functions of reward fine-tuning and the two SDE methods, each against something exact."""

import math
from typing import Any

import pytest
import torch
from oracles import batch_of, corrected
from problems import MIXTURE, PROCESS

from pullback.adjoint import Checkpoint, PerStep, sample, trajectory
from pullback.guidance import (
    Chain,
    OverBatch,
    OverGroup,
    PerPrompt,
    Policy,
    Scale,
    evaluate_reward,
    gaussian_logprob,
    memory,
    memoryless,
    visited,
)
from pullback.guidance.objectives.advantages import group_advantages
from pullback.guidance.objectives.direct_gradient import pathwise_kl
from pullback.guidance.objectives.kl import path_kl, path_kl_loss, to_go
from pullback.guidance.objectives.lean_adjoint import adjoint_matching_loss, adjoint_path
from pullback.guidance.objectives.likelihood import gaussian_kl
from pullback.guidance.objectives.surrogate import clamped_loss, ppo_clip_loss
from pullback.solvers import (
    DATA,
    DDIM,
    VP,
    Denoiser,
    FlowEuler,
    FlowSDE,
    GivenNoise,
    RectifiedFlow,
    SDEDPMSolverPP,
    UniformLambda,
    run,
)

RECTIFIED = RectifiedFlow()
UNIT = torch.linspace(1.0, 0.0, 11, dtype=torch.float64)


# likelihoods
# ----------------------------------------------------------------------------------------------------------


def test_logprob_is_the_normal_density():
    generator = torch.Generator().manual_seed(0)
    x, m = torch.randn(2, 4, 3, 2, generator=generator)
    exact = torch.distributions.Normal(m, 0.3).log_prob(x).flatten(1).sum(1)
    assert torch.allclose(gaussian_logprob(x, m, 0.3), exact, rtol=1e-13)
    assert torch.allclose(gaussian_logprob(x, m, 0.3, mean=True), exact / 6, rtol=1e-13)
    own = torch.tensor([0.3, 0.1, 2.0, 1.0]).reshape(-1, 1, 1)
    exact = torch.distributions.Normal(m, own).log_prob(x).flatten(1).sum(1)
    assert torch.allclose(gaussian_logprob(x, m, own), exact, rtol=1e-13)
    assert gaussian_logprob(x.half(), m.half(), 0.3).dtype == torch.float32
    with pytest.raises(ValueError, match="expected s > 0"):
        gaussian_logprob(x, m, 0.0)


def test_kl_is_that_of_torch():
    m, m0 = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    exact = torch.distributions.kl_divergence(
        torch.distributions.Normal(m, 0.2), torch.distributions.Normal(m0, 0.2)
    ).sum(1)
    assert torch.allclose(gaussian_kl(m, m0, 0.2), exact, rtol=1e-13)
    assert torch.allclose(path_kl([m, m0], [m0, m], [0.2, 0.4]), 1.25 * exact, rtol=1e-13)


def test_to_go_leaves_out_the_present():
    steps = torch.tensor([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]])
    assert to_go(steps).tolist() == [[6.0, 60.0], [4.0, 40.0], [0.0, 0.0]]


def test_path_kl_loss_weighs_the_score_with_what_is_to_come():
    logprob: Any = torch.tensor([-1.0, 2.0], requires_grad=True)
    kl: Any = torch.tensor([0.5, 0.1], requires_grad=True)
    later = torch.tensor([3.0, -1.0], requires_grad=True)
    path_kl_loss(logprob, kl, later).sum().backward()
    assert logprob.grad.tolist() == [3.0, -1.0] and kl.grad.tolist() == [1.0, 1.0] and later.grad is None


# ratios and advantages
# ------------------------------------------------------------------------------------------------


def test_ppo_takes_the_pessimistic_side_and_the_clamp_does_not():
    """Outside the band: no gradient where it would lead further out; PPO's leads back in, DPOK's nowhere."""
    old, advantage = torch.zeros(4), torch.tensor([1.0, -1.0, 1.0, -1.0])
    shift = torch.log(torch.tensor([1.5, 1.5, 0.5, 0.5]))
    for loss, expected in ((ppo_clip_loss, [0.0, 1.5, -0.5, 0.0]), (clamped_loss, [0.0, 0.0, 0.0, 0.0])):
        logprob: Any = shift.clone().requires_grad_()
        value = loss(logprob, old, advantage, 0.2)
        value.sum().backward()
        assert torch.allclose(logprob.grad, torch.tensor(expected))
    assert torch.allclose(ppo_clip_loss(shift, old, advantage, 0.2), torch.tensor([-1.2, 1.5, -0.5, 0.8]))
    assert torch.allclose(clamped_loss(shift, old, advantage, 0.2), torch.tensor([-1.2, 1.2, -0.8, 0.8]))
    with pytest.raises(ValueError, match="clip"):
        ppo_clip_loss(shift, old, advantage, 0.0)


def test_group_advantages():
    reward = torch.tensor([1.0, 3.0, 5.0, 5.0, 0.0])
    groups = torch.tensor([7, 7, 2, 2, 9])
    assert torch.allclose(
        group_advantages(reward, groups), torch.tensor([-1 / 1.0001, 1 / 1.0001, 0.0, 0.0, 0.0])
    )
    assert group_advantages(reward, groups, Scale.NONE).tolist() == [-1.0, 1.0, 0.0, 0.0, 0.0]
    whole = group_advantages(reward, groups, Scale.BATCH)
    assert float(whole[1]) == pytest.approx(1 / (float(reward.std(unbiased=False)) + 1e-4))
    random = torch.randn(30, generator=torch.Generator().manual_seed(0))
    index = torch.arange(30) % 5
    for advantages in (OverGroup(), OverGroup(Scale.NONE), OverGroup(Scale.BATCH)):
        sums = torch.zeros(5).index_add(0, index, advantages(random, index))
        assert float(sums.abs().max()) < 1e-12
    assert float(OverBatch()(random, index).std(unbiased=False)) == pytest.approx(1.0)


def test_a_standard_deviation_changes_the_weight_of_a_kl_beside_it():
    """Ten times the reward: ten times the advantage without scaling, the same with it."""
    reward = torch.randn(8, generator=torch.Generator().manual_seed(0))
    groups = torch.zeros(8, dtype=torch.long)
    assert torch.allclose(
        group_advantages(10 * reward, groups, Scale.NONE), 10 * group_advantages(reward, groups, Scale.NONE)
    )
    assert torch.allclose(group_advantages(10 * reward, groups), group_advantages(reward, groups), rtol=1e-3)


def test_per_prompt_statistics_remember_and_restart():
    ours = PerPrompt(buffer=4, minimum=3)
    groups = torch.tensor([0, 0, 1, 1])
    first = ours(torch.tensor([1.0, 2.0, 30.0, 40.0]), groups)
    whole = torch.tensor([1.0, 2.0, 30.0, 40.0])
    assert torch.allclose(
        first, (whole - whole.mean()) / whole.std(unbiased=False)
    )  # two each: fewer than three
    other = PerPrompt(buffer=4, minimum=3)
    other.load(ours.state())
    second = torch.tensor([3.0, 4.0, 50.0, 60.0])
    a, b = ours(second, groups), other(second, groups)
    kept = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert torch.equal(a, b) and torch.allclose(a[:2], (second[:2] - kept.mean()) / kept.std(unbiased=False))
    assert len(ours.past[0]) == 4
    ours(second, groups)
    assert ours.past[0] == [3.0, 4.0, 3.0, 4.0]


# adjoint
# --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [DDIM(1.0), FlowSDE(math.sqrt(2)), SDEDPMSolverPP(2)], ids=str)
def test_the_lean_adjoint_is_the_gradient_along_the_base_chain(method):
    """a_k is the derivative of a_N . x_N in a displacement of x_k, noise fixed, the base stepping: autograd
    and differences.
    """
    plan = method.plan(PROCESS, UniformLambda(6, start=0.9, end=0.1))
    policy = corrected(MIXTURE, plan)
    batch = batch_of(plan, 4, 3, d=2)
    base = Policy(policy.reference, plan)
    states = visited(base, batch)
    end = torch.randn(4, 2, generator=torch.Generator().manual_seed(2))
    adjoint = adjoint_path(Chain.of(plan, policy.reference, states[0]), states, end)
    controls = torch.zeros(6, 4, 2, requires_grad=True)
    out = sample(policy.reference, plan, batch.x, noise=batch.noise, controls=controls)
    assert torch.allclose(out, states[-1], atol=1e-13)
    (grad,) = torch.autograd.grad((out * end).sum(), controls)
    assert torch.allclose(adjoint[:-1], grad, rtol=1e-11, atol=1e-12) and not adjoint.requires_grad
    assert torch.equal(adjoint[-1], end)


def test_batch_mates_do_not_meet():
    plan = DDIM(1.0).plan(PROCESS, UniformLambda(5, start=0.9, end=0.1))
    base = MIXTURE.denoiser(PROCESS)
    whole = batch_of(plan, 4, 3, d=2)
    states = visited(Policy(base, plan), whole)
    adjoint = adjoint_path(Chain.of(plan, base, states[0]), states, states[-1])
    for i in range(4):
        one = states[:, i : i + 1]
        assert torch.allclose(
            adjoint_path(Chain.of(plan, base, one[0]), one, one[-1]), adjoint[:, i : i + 1], atol=1e-13
        )


def test_adjoint_matching_loss_is_zero_at_the_control():
    generator = torch.Generator().manual_seed(0)
    m0, a = torch.randn(2, 3, 2, generator=generator)
    m = (m0 - 0.3**2 * a).requires_grad_()
    loss = adjoint_matching_loss(m, m0, 0.3, a)
    assert float(loss.detach().abs().max()) < 1e-28
    (grad,) = torch.autograd.grad(
        adjoint_matching_loss(m0.clone().requires_grad_(), m0, 0.3, a).sum(), m, allow_unused=True
    )
    assert grad is None
    start = m0.clone().requires_grad_()
    (grad,) = torch.autograd.grad(adjoint_matching_loss(start, m0, 0.3, a).sum(), start)
    assert torch.allclose(grad, a)  # no control yet: the loss pulls along the adjoint alone


def test_pathwise_kl_is_path_kl_at_the_visited_states():
    """Its value against means recomputed there, its gradient against differences in the weights."""
    plan = SDEDPMSolverPP(2).plan(PROCESS, UniformLambda(5, start=0.9, end=0.1))
    policy, batch = corrected(MIXTURE, plan), batch_of(plan, 3, 3, d=2)
    with torch.no_grad():
        for p in policy.denoiser.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))

    def value(graph):
        states = trajectory(
            policy.denoiser,
            plan,
            batch.x,
            range(6),
            noise=batch.noise,
            gradient=Checkpoint() if graph else None,
        )
        return states, pathwise_kl(policy, batch, states)

    states, kl = value(True)
    ours, base = (Chain.of(plan, m, states[0]) for m in (policy.denoiser, policy.reference))
    means, frozen = ([chain.mean(states, k) for k in range(5)] for chain in (ours, base))
    exact = path_kl(means, frozen, [ours.std(k) for k in range(5)])
    assert torch.allclose(kl, exact, rtol=1e-9) and float(kl.min()) > 1e-3
    weight = list(policy.denoiser.parameters())[1]
    (grad,) = torch.autograd.grad(kl.sum(), weight)
    with torch.no_grad():
        found = []
        for sign in (1, -1):
            weight[3] += sign * 1e-5
            found.append(float(value(False)[1].sum()))
            weight[3] -= sign * 1e-5
    assert float(grad[3]) == pytest.approx((found[0] - found[1]) / 2e-5, rel=1e-6)


# memory
# ---------------------------------------------------------------------------------------------------------------


def test_memory_is_the_correlation_of_start_and_sample():
    """Against a million pairs, and 1 for an ODE."""
    plan = FlowSDE(0.7).plan(RECTIFIED, UNIT)
    gaussian = Denoiser(lambda x, t: (1 - t)[:, None] / ((1 - t) ** 2 + t**2)[:, None] * x, RECTIFIED, DATA)
    noise = torch.randn(11, 400_000, 1, generator=torch.Generator().manual_seed(0))
    x = run(gaussian, plan, noise[0], noise=GivenNoise(noise[1:]))
    found = float(torch.corrcoef(torch.cat([noise[0], x], 1).T)[0, 1])
    assert memory(plan) == pytest.approx(found, abs=0.005)
    assert memory(FlowEuler().plan(RECTIFIED, UNIT)) == pytest.approx(1.0)
    assert memoryless(FlowSDE(math.sqrt(2)).plan(RECTIFIED, UNIT)) and not memoryless(plan)
    assert memory(DDIM(1.0).plan(VP(), torch.linspace(1.0, 0.0, 500))) == pytest.approx(
        float(VP().alpha(1.0)), rel=0.05
    )


# rewards
# --------------------------------------------------------------------------------------------------------------


def brightness(x, context):
    return x.flatten(1).mean(1)


def test_score_checks_what_a_reward_gives():
    x = torch.ones(3, 2, requires_grad=True)
    assert (
        evaluate_reward(brightness, x, differentiable=True).requires_grad
        and not evaluate_reward(brightness, x).requires_grad
    )
    assert evaluate_reward(lambda x, c: torch.ones(3, dtype=torch.long), x).dtype == torch.float64
    with pytest.raises(ValueError, match=r"reward brightness.*expected a tensor \(3,\)") as _:

        def wrong(x, context):
            return brightness(x, context).mean()

        named: Any = wrong
        named.name = "brightness"
        evaluate_reward(named, x)
    with pytest.raises(ValueError, match="expected a tensor"):
        number: Any = lambda x, c: 1.0  # noqa: E731
        evaluate_reward(number, x)
    with pytest.raises(FloatingPointError, match=r"samples \[1\] of 3.*the samples are finite"):
        evaluate_reward(lambda x, c: torch.tensor([0.0, math.nan, 1.0]), x)
    with pytest.raises(ValueError, match="reward detached.*differentiable reward; use DDPO"):

        def detached(x, context):
            return x.detach().sum(1)

        evaluate_reward(detached, x, differentiable=True)


def test_per_step_conditioning_reaches_its_step():
    plan = DDIM(1.0).plan(PROCESS, UniformLambda(3, start=0.9, end=0.1))
    values = torch.arange(3.0)[:, None].expand(3, 2)
    model = Denoiser(lambda x, t, c: 0 * x + c, PROCESS, DATA)
    chain = Chain.of(plan, model, torch.zeros(2, 2), PerStep(values[:, None, :].expand(3, 2, 2)))
    states = torch.zeros(4, 2, 2)
    gains = [float(chain.mean(states, k)[0, 0]) for k in range(3)]
    single = [
        float(Chain.of(plan, model, states[0], torch.full((2, 2), float(k))).mean(states, k)[0, 0])
        for k in range(3)
    ]
    assert gains == single and gains[1] != 0
