"""log q along reverse SDE paths: exact for Gaussian data, converging for mixtures; the published sum beside it."""

import math

import pytest
import torch
from problems import MIXTURE, PROCESS
from torch import nn

from pullback.adjoint import AdjointDEIS, PerStep, sample, trajectory
from pullback.adjoint.density.ito import ito_log_prob
from pullback.solvers import (
    DATA,
    DDIM,
    DDPM,
    EDM,
    ERSDE,
    FLOW,
    LCM,
    Addressed,
    Brownian,
    CosineVP,
    Denoiser,
    EulerMaruyama,
    GottaGoFast,
    LangevinCorrected,
    Mixture,
    OnProcess,
    SDEDPMSolverPP,
    StochasticImprovedEuler,
    UniformLambda,
    UniformT,
    adapt,
    convert,
)

START, END = 0.9, 0.02
GAUSSIAN = Mixture.isotropic(*(torch.tensor(v, dtype=torch.float64) for v in ([1.0], [[0.7, 0.2]], [0.5])))
PATH = Brownian(3, float(PROCESS.lam(START)), float(PROCESS.lam(END)), depth=24)


def at(t):
    return float(PROCESS.alpha(t)), float(PROCESS.sigma(t))


def drawn(data, n):
    """n draws of the law of x at START."""
    generator = torch.Generator().manual_seed(1)
    alpha, sigma = at(START)
    noise = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    return alpha * data.sample(n, generator).double() + sigma * noise


def walked(data, method, steps, x, gradient=None):
    plan = method.plan(PROCESS, UniformLambda(steps, start=START, end=END))
    return plan, trajectory(
        data.denoiser(PROCESS), plan, x, range(steps + 1), noise=PATH.on(plan), gradient=gradient
    )


@pytest.mark.parametrize(
    "method", [DDPM(), EulerMaruyama(), SDEDPMSolverPP(2), StochasticImprovedEuler()], ids=str
)
@pytest.mark.parametrize("steps", [1, 7])
def test_gaussian_data_of_the_variance_told_are_exact(method, steps):
    """At every node, however long the steps and whoever drew the path."""
    x = drawn(GAUSSIAN, 5)
    plan, states = walked(GAUSSIAN, method, steps, x)
    found = ito_log_prob(
        GAUSSIAN.denoiser(PROCESS), plan, states, GAUSSIAN.log_prob(x, *at(START)), variance=0.25
    )
    for k, state in enumerate(states):
        wanted = GAUSSIAN.log_prob(state, *at(plan.times[k]))
        assert torch.allclose(found[k], wanted, rtol=0, atol=1e-11)


@pytest.mark.parametrize("variance, coarse", [(math.inf, 1.5), (1.0, 0.35)])
def test_a_mixture_converges(variance, coarse):
    """Root mean square error h^(1/2), mean error much below it; the published estimator's is five times larger."""
    x, errors = drawn(MIXTURE, 200), []
    for steps in (64, 256):
        plan, states = walked(MIXTURE, SDEDPMSolverPP(2), steps, x)
        start = MIXTURE.log_prob(x, *at(START))
        with torch.no_grad():
            found = ito_log_prob(MIXTURE.denoiser(PROCESS), plan, states, start, variance=variance)
        errors.append(found[-1] - MIXTURE.log_prob(states[-1], *at(END)))
    rms = [float(each.square().mean().sqrt()) for each in errors]
    assert rms[0] == pytest.approx(coarse, rel=0.2)
    assert math.log2(rms[0] / rms[1]) / 2 == pytest.approx(0.5, abs=0.12)
    assert abs(float(errors[1].mean())) < 0.6 * abs(float(errors[0].mean())) + 0.01


def test_it_is_the_published_sum():
    """The theorem as it stands, in x and t by Euler's rule along the same states: the difference falls as h."""
    x, gaps = drawn(MIXTURE, 20), []
    for steps in (256, 512):
        plan, states = walked(MIXTURE, DDPM(), steps, x)
        start = MIXTURE.log_prob(x, *at(START))
        with torch.no_grad():
            ours = ito_log_prob(MIXTURE.denoiser(PROCESS), plan, states, start, variance=math.inf)[-1]
        total = start.clone()
        for k in range(steps):
            t, later = plan.times[k], plan.times[k + 1]
            assert isinstance(t, float) and isinstance(later, float)
            tau, f, g2, state = t - later, float(PROCESS.f(t)), float(PROCESS.g2(t)), states[k]
            score = MIXTURE.score(state, *at(t))
            total += (score * (states[k + 1] - state)).sum(1)
            total += tau * (2 * f + f * (state * score).sum(1) - g2 / 2 * score.square().sum(1))
        gaps.append(float((ours - total).square().mean().sqrt()))
    assert gaps[0] < 0.6 and gaps[0] / gaps[1] == pytest.approx(2, abs=0.7)


class Net(nn.Module):
    calls = 0

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Linear(2, 2).double()

    def forward(self, x, t, cond):
        self.calls += 1
        return torch.tanh(self.inner(x)) * cond


def test_gradients_are_exact_at_the_memory_of_one_call():
    """At the start, the weights and the conditioning, through the path and the sum; every call is made again."""
    network, steps = Net(), 5
    model = Denoiser(network, PROCESS, DATA)
    plan = DDPM().plan(PROCESS, UniformLambda(steps, start=START, end=END))
    x = drawn(GAUSSIAN, 3).requires_grad_()
    cond = torch.linspace(0.5, 1.5, 5, dtype=torch.float64).requires_grad_()

    def value(x, cond):
        states = trajectory(model, plan, x, range(steps + 1), cond=PerStep(cond), noise=Addressed(0))
        before = network.calls
        found = ito_log_prob(model, plan, states, -x.square().sum(1), cond=PerStep(cond))
        assert network.calls - before == steps
        return found[-1].sum() + found[2].square().sum()

    inputs = [x, cond, *network.parameters()]
    out = value(x, cond)
    before = network.calls
    grads = torch.autograd.grad(out, inputs)
    assert network.calls - before >= 2 * steps  # the path's and the sum's
    for value_at, gradient in zip(inputs, grads, strict=True):
        direction = torch.ones_like(value_at) / 3
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                value_at += sign * 1e-5 * direction
                ends.append(float(value(x, cond)))
                value_at -= sign * 1e-5 * direction
        assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(float((gradient * direction).sum()), rel=1e-6)


def test_accepted_steps_of_each_sample():
    """A grid for each sample, with steps that do nothing: each is what it would be alone."""
    x = drawn(MIXTURE, 3)
    model = MIXTURE.denoiser(PROCESS)
    found = adapt(model, x, GottaGoFast(), START, END, rtol=0.5, atol=0.5, noise=PATH)
    plan = found.plan
    assert len({len(grid) for grid in found.grids}) > 1
    states = trajectory(model, plan, x, range(plan.steps + 1), noise=found.noise, gradient=None)
    start = MIXTURE.log_prob(x, *at(START))
    whole = ito_log_prob(model, plan, states, start)
    for b, grid in enumerate(found.grids):
        own = StochasticImprovedEuler().plan(PROCESS, grid)
        alone = [state[b : b + 1] for state in states[: own.steps + 1]]
        one = ito_log_prob(model, own, alone, start[b : b + 1])
        assert torch.allclose(one[-1], whole[-1, b : b + 1], rtol=0, atol=1e-11)


def test_joint_states():
    x = drawn(MIXTURE, 2)
    plan, states = walked(MIXTURE, DDPM(), 4, x)
    start, model = MIXTURE.log_prob(x, *at(START)), MIXTURE.denoiser(PROCESS)

    def network(tree, t):
        return list(model(torch.cat(tree, 1), t).split(1, 1))

    joint = Denoiser(network, PROCESS, DATA)
    parts = [[state[:, :1], state[:, 1:]] for state in states]
    assert torch.allclose(ito_log_prob(joint, plan, parts, start), ito_log_prob(model, plan, states, start))


def test_what_does_not_fit_is_refused():
    x = drawn(MIXTURE, 2)
    model, start, grid = MIXTURE.denoiser(PROCESS), torch.zeros(2), UniformLambda(8, start=START, end=END)
    for method in (DDIM(), DDIM(0.5), ERSDE()):
        plan = method.plan(PROCESS, grid)
        with pytest.raises(ValueError, match="of the forward process's noise, expected all"):
            ito_log_prob(model, plan, [x] * 9, start)
    plan = DDPM().plan(PROCESS, grid)
    with pytest.raises(ValueError, match="states: got 8, expected 9"):
        ito_log_prob(model, plan, [x] * 8, start)
    with pytest.raises(ValueError, match=r"start: got shape \(3,\)"):
        ito_log_prob(model, plan, [x] * 9, torch.zeros(3))
    with pytest.raises(ValueError, match="got alpha or sigma = 0 before the last node"):
        ito_log_prob(model, DDPM().plan(CosineVP(), UniformT(4, end=0.1)), [x] * 5, start)


@pytest.mark.parametrize("method", [LCM(), LangevinCorrected(DDPM())], ids=str)
def test_steps_that_follow_no_diffusion_are_refused(method):
    plan = method.plan(PROCESS, UniformLambda(16, start=0.9, end=0.05))
    with pytest.raises(ValueError, match="whose steps follow no diffusion"):
        ito_log_prob(MIXTURE.denoiser(PROCESS), plan, [torch.zeros(1, 2)] * 17, torch.zeros(1))
    x = torch.zeros(1, 2, requires_grad=True)
    with pytest.raises(ValueError, match="whose steps follow no diffusion"):
        sample(
            MIXTURE.denoiser(PROCESS), plan, x, noise=Addressed(0), gradient=AdjointDEIS()
        ).sum().backward()


def test_what_a_run_would_refuse_is_refused():
    """Times at which the model cannot be called, and a plan of another process: neither is the path's."""
    plan, states = walked(GAUSSIAN, DDPM(), 3, drawn(GAUSSIAN, 2))
    wrong = {
        "OnProcess: got a network call at t=0.9": OnProcess(
            Denoiser(lambda x, t: x, EDM(t_max=2.0), DATA), PROCESS
        ),
        "process: got a plan for": GAUSSIAN.denoiser(CosineVP()),
    }
    for words, model in wrong.items():
        with pytest.raises(ValueError, match=words):
            ito_log_prob(model, plan, states, torch.zeros(2))


def test_any_prediction_empty_batches_and_torch_func():
    """A velocity on a process whose rates are derivatives taken by torch, inside the checkpoint; and torch.func."""
    data, process, x = GAUSSIAN, CosineVP(), drawn(GAUSSIAN, 3)
    plan = DDPM().plan(process, UniformT(4, 0.9, 0.1))
    exact = data.denoiser(process)
    velocity = Denoiser(lambda x, t: convert(exact(x, t), x, DATA, FLOW, process, t), process, FLOW)
    states = trajectory(exact, plan, x, range(5), noise=Addressed(0), gradient=None)
    leaf = states[2].clone().requires_grad_()

    def last(model, state):
        return ito_log_prob(model, plan, [*states[:2], state, *states[3:]], torch.zeros(len(x)).double())[-1]

    found = [torch.autograd.grad(last(model, leaf).sum(), leaf)[0] for model in (exact, velocity)]
    assert torch.allclose(*found, rtol=1e-9, atol=1e-10)
    assert torch.allclose(torch.func.grad(lambda s: last(velocity, s).sum())(states[2]), found[0], rtol=1e-9)
    empty = ito_log_prob(velocity, plan, [state[:0] for state in states], torch.zeros(0).double())
    assert empty.shape == (5, 0)
