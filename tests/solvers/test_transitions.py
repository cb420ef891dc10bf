"""The flow SDE, and stochastic plans read as chains of Gaussian steps."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from oracles import batch_of
from problems import MIXTURE, PROCESS, every_method

from pullback.guidance import Chain, Policy, gaussian_logprob, visited
from pullback.solvers import (
    DATA,
    DDIM,
    DDPM,
    ERSDE,
    FLOW,
    VP,
    Addressed,
    Combine,
    ConstantFlowSDE,
    CosineVP,
    Denoiser,
    EDMHeun,
    EulerMaruyama,
    FlowEuler,
    FlowSDE,
    RectifiedFlow,
    SASolver,
    SDEDPMSolverPP,
    Transitions,
    UniformLambda,
    moments,
    run,
)
from pullback.solvers.loop import predict
from pullback.solvers.plan import stack
from pullback.solvers.program import prepare

RECTIFIED = RectifiedFlow()
UNIT = torch.linspace(1.0, 0.0, 11, dtype=torch.float64)


# the flow SDE
# ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("a", [0.3, 0.7, math.sqrt(2)])
def test_flow_sde_is_the_papers_step(a):
    """m = x + [v + g^2/(2 sigma) (x + (1 - sigma) v)] dt, s = g sqrt(-dt), the next sigma in 1 - sigma where
    sigma = 1.
    """
    generator = torch.Generator().manual_seed(0)
    x, v = torch.randn(2, 3, 2, generator=generator)
    plan = FlowSDE(a).plan(RECTIFIED, UNIT)
    model = Denoiser(lambda x, t: v, RECTIFIED, FLOW)
    found, program = Transitions(plan), prepare(plan, model, x)
    for k, (sigma, after) in enumerate(zip(UNIT[:-1], UNIT[1:], strict=True)):
        g2 = a**2 * sigma / (1 - (after if sigma == 1 else sigma))
        m = x + (v + g2 / (2 * sigma) * (x + (1 - sigma) * v)) * (after - sigma)
        got = found.mean(program, lambda call, state: predict(model, call, state, None), [x] * 11, k)
        assert torch.allclose(got, m, rtol=1e-12, atol=1e-12)
        assert found.stds[k] == pytest.approx(float((g2 * (sigma - after)).sqrt()), rel=1e-12)


def test_constant_flow_sde_is_the_papers_step():
    """m = x + v dt - eta^2/2 score dt, score = -(x - (1 - sigma) D)/sigma^2, s = eta sqrt(-dt)."""
    x, data = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(0))
    model = Denoiser(lambda x, t: data, RECTIFIED, DATA)
    plan = ConstantFlowSDE(0.3).plan(RECTIFIED, UNIT)
    found, program = Transitions(plan), prepare(plan, model, x)
    for k, (sigma, after) in enumerate(zip(UNIT[:-1], UNIT[1:], strict=True)):
        v, slope = (x - data) / sigma, -(x - (1 - sigma) * data) / sigma**2
        m = x + (v - 0.045 * slope) * (after - sigma)
        got = found.mean(program, lambda call, state: predict(model, call, state, None), [x] * 11, k)
        assert torch.allclose(got, m, rtol=1e-12, atol=1e-12)
        assert found.stds[k] == pytest.approx(0.3 * float((sigma - after).sqrt()), rel=1e-12)


def test_without_noise_it_is_the_ode():
    start = torch.randn(5, 2, generator=torch.Generator().manual_seed(1))
    model = MIXTURE.denoiser(RECTIFIED)
    ode = run(model, FlowEuler().plan(RECTIFIED, UNIT), start)
    for method in (FlowSDE(0.0), ConstantFlowSDE(0.0)):
        assert torch.allclose(run(model, method.plan(RECTIFIED, UNIT), start), ode, atol=1e-12)
    assert not FlowSDE(0.0).stochastic and not FlowSDE(0.0).plan(RECTIFIED, UNIT).slots
    assert FlowSDE(0.1).stochastic and FlowSDE(0.1).plan(RECTIFIED, UNIT).stochastic


@pytest.mark.parametrize("method", [FlowSDE(0.7), FlowSDE(math.sqrt(2)), ConstantFlowSDE()], ids=str)
@pytest.mark.parametrize("end", [0.75, 0.4, 0.1])
def test_the_sde_has_the_marginals_of_the_ode_at_every_sigma(method, end):
    """N(0.7, 0.25): mean and variance at time `end` go to alpha m and alpha^2 v + sigma^2, first order in the steps."""
    exact = ((1 - end) * 0.7, (1 - end) ** 2 * 0.25 + end**2)
    errors = []
    for n in (200, 400):
        plan = method.plan(RECTIFIED, torch.linspace(0.95, end, n + 1))
        got = moments(plan, 0.7, 0.25, 0.05 * 0.7, 0.05**2 * 0.25 + 0.95**2)
        errors.append(max(abs(g - e) for g, e in zip(got, exact, strict=True)))
    assert errors[1] < 6e-3 and errors[0] / errors[1] == pytest.approx(2.0, abs=0.35)


def test_memoryless_flow_sde_is_euler_maruyama_of_the_reverse_sde():
    grid = torch.linspace(0.9, 0.1, 9)
    for process in (RECTIFIED, VP()):
        start = torch.randn(4, 2, generator=torch.Generator().manual_seed(1))
        a, b = (
            run(MIXTURE.denoiser(process), method.plan(process, grid), start, noise=Addressed(0))
            for method in (FlowSDE(math.sqrt(2)), EulerMaruyama())
        )
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)


class SteepData(RectifiedFlow):
    def d_alpha(self, t):
        return super().d_alpha(t) * math.inf


class SteepNoise(RectifiedFlow):
    def d_sigma(self, t):
        return super().d_sigma(t) * math.inf


@pytest.mark.parametrize(
    "make",
    [
        lambda: FlowSDE(-1.0),
        lambda: ConstantFlowSDE(math.inf),
        lambda: FlowSDE().plan(CosineVP(), UNIT),
        lambda: FlowSDE().plan(SteepData(), UNIT),
        lambda: FlowSDE().plan(SteepNoise(), UNIT),
    ],
)
def test_flow_sde_refuses(make):
    with pytest.raises(ValueError, match="flow SDE|FlowSDE"):
        make()


# transitions
# ----------------------------------------------------------------------------------------------------------

GAUSSIAN = [
    DDIM(1.0),
    DDIM(0.5),
    DDPM(),
    FlowSDE(),
    ConstantFlowSDE(),
    EulerMaruyama(),
    SDEDPMSolverPP(1),
    SDEDPMSolverPP(2),
    SDEDPMSolverPP(3),
    ERSDE(1, phi=2.0),
    ERSDE(3, phi=2.0),
    SASolver(2, 0),
]


@pytest.mark.parametrize("method", GAUSSIAN, ids=str)
def test_states_are_means_plus_their_noise(method):
    """x_{k+1} = m_k + s_k xi to the last bits along a run, history of multistep methods included."""
    plan = method.plan(PROCESS, UniformLambda(6, start=0.95, end=0.05))
    model, noise = MIXTURE.denoiser(PROCESS), Addressed(5)
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    states = visited(Policy(model, plan), batch_of(plan, 3, 5, d=2))
    noise, x = batch_of(plan, 3, 5, d=2).noise, states[0]
    chain = Chain.of(plan, model, x)
    assert chain.transitions.stochastic == tuple(range(6)) and not chain.transitions.excluded
    for k in range(6):
        slot: Any = chain.transitions.slots[k]
        assert torch.allclose(
            chain.mean(states, k) + chain.std(k) * noise(slot, x), states[k + 1], rtol=0, atol=1e-13
        )


@pytest.mark.parametrize("method", [SDEDPMSolverPP(2), ERSDE(3, phi=2.0)], ids=str)
def test_a_multistep_mean_is_differentiated_in_its_history(method):
    """Against finite differences in every state, and nothing reaches states outside the window."""
    plan = method.plan(PROCESS, UniformLambda(5, start=0.9, end=0.1))
    model = MIXTURE.denoiser(PROCESS)
    states = visited(Policy(model, plan), batch_of(plan, 1, 5, d=2)).requires_grad_()
    chain = Chain.of(plan, model, states[0])
    (grad,) = torch.autograd.grad(chain.mean(states, 4).sum(), states)
    window = chain.transitions.window(4)
    assert len(window) > 1
    for j in range(6):
        bump = torch.zeros_like(states)
        bump[j, 0, 1] = 1e-6
        slope = (chain.mean(states + bump, 4) - chain.mean(states - bump, 4)).sum() / 2e-6
        assert float(grad[j, 0, 1]) == pytest.approx(float(slope.detach()), abs=1e-8)
        assert bool(grad[j].abs().sum() > 0) == (j in window)


def test_deterministic_steps_are_named():
    found = Transitions(DDIM(1.0).plan(VP(), torch.linspace(1.0, 0.0, 6)))
    assert (
        found.excluded == (4,)
        and found.stds[4] == 0.0
        and found.slots[4] is None
        and found.stochastic == (0, 1, 2, 3)
    )


@pytest.mark.parametrize("method", [SASolver(2, 2), EDMHeun(10.0)], ids=str)
def test_steps_that_do_not_end_in_their_noise_are_refused(method):
    with pytest.raises(ValueError, match=r"step \d+ whose noise does not end it.*take DDPM"):
        Transitions(method.plan(PROCESS, UniformLambda(6, start=0.9, end=0.1)))


@pytest.mark.parametrize(
    "noise",
    [
        lambda last: (replace(last, noise=(*last.noise, (0.1, 7))),),  # two draws in one sum
        lambda last: (last, Combine("spare", ((1.0, "x"),), ((0.1, 7),))),  # one more beside the state
    ],
    ids=["together", "apart"],
)
def test_a_step_of_two_draws_is_refused(noise):
    plan = DDPM().plan(PROCESS, UniformLambda(3, start=0.9, end=0.1))
    *before, last = plan.instructions
    with pytest.raises(ValueError, match="step 2 whose noise does not end it, expected .* with one draw"):
        Transitions(replace(plan, instructions=(*before, *noise(last))))


def test_every_stochastic_method_is_read_or_refused():
    for method in [m for m in every_method() if m.stochastic]:
        plan = method.plan(PROCESS, UniformLambda(8, start=0.9, end=0.1))
        try:
            assert len(Transitions(plan).stochastic) == plan.slots
        except ValueError as error:
            assert "does not end it" in str(error) or "history" in str(error)


def test_a_stacked_plan_has_a_deviation_for_each_sample():
    plans = [DDIM(1.0).plan(PROCESS, torch.linspace(0.9, end, 4)) for end in (0.1, 0.2)]
    x = torch.randn(2, 2, generator=torch.Generator().manual_seed(0))
    both = Chain.of(stack(plans), MIXTURE.denoiser(PROCESS), x)
    for i, plan in enumerate(plans):
        one = Chain.of(plan, MIXTURE.denoiser(PROCESS), x[i : i + 1])
        m, m1 = both.mean([x] * 4, 2)[i : i + 1], one.mean([x[i : i + 1]] * 4, 2)
        assert torch.allclose(m, m1, atol=1e-13)
        assert torch.allclose(
            gaussian_logprob(x, both.mean([x] * 4, 2), both.std(2))[i : i + 1],
            gaussian_logprob(x[i : i + 1], m1, one.std(2)),
            atol=1e-11,
        )


def test_half_precision_states_are_widened():
    plan = DDIM(1.0).plan(PROCESS, UniformLambda(3, start=0.9, end=0.1))
    x = torch.randn(2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float32).half()
    assert Chain.of(plan, MIXTURE.denoiser(PROCESS), x).mean([x] * 4, 1).dtype == torch.float32
