"""Noise of any strength leaves the marginals of the flow alone: one method, of which others are cases."""

import math
import pickle
from dataclasses import dataclass

import pytest
import torch
from oracles import kernels, pushed, variation
from problems import MIXTURE

from pullback.adjoint import Checkpoint, Direct, sample
from pullback.solvers import (
    DATA,
    EDM,
    FLOW,
    NOISE,
    SCORE,
    VP,
    Addressed,
    ConstantFlowSDE,
    Denoiser,
    EulerMaruyama,
    FlowEuler,
    FlowSDE,
    GivenNoise,
    GivenTimes,
    Mixture,
    OwnNoise,
    RectifiedFlow,
    Rising,
    StochasticFlow,
    Tau,
    UniformT,
    V,
    convert,
    expand,
    moments,
    run,
)

FLOWS = RectifiedFlow()


@dataclass(frozen=True)
class Bump:
    """Vanishes at both ends; pickles and compares."""

    height: float = 1.0

    def __call__(self, t):
        return self.height * t * (1 - t)


@dataclass(frozen=True)
class Falling:
    """A tau of lambda, less where there is less noise."""

    def __call__(self, lam):
        return 0.6 / (1 + math.exp(lam))


STRENGTHS = [0.3, Bump(2.0), lambda t: 0.1 + t**2, OwnNoise(0.5), OwnNoise(Falling())]


@pytest.mark.parametrize("prediction", [NOISE, DATA, V, FLOW, SCORE], ids=lambda p: p.name)
@pytest.mark.parametrize("process", [FLOWS, VP(), EDM()], ids=str)
def test_a_step_is_its_formula(process, prediction):
    """x + (u - eps s)(t - s) + sqrt(2 eps (s - t)) xi, u and s from one network of any kind."""
    t = process.t_min + torch.tensor([0.8, 0.5, 0.3]) * (process.t_max - process.t_min)
    x, xi = torch.randn(3, 2), torch.randn(2, 3, 2)
    exact = MIXTURE.denoiser(process)
    model = Denoiser(lambda x, t: convert(exact(x, t), x, DATA, prediction, process, t), process, prediction)
    got = run(model, StochasticFlow(lambda t: 0.1 + t).plan(process, t), x, noise=GivenNoise(xi))
    for k in range(2):
        at, h = t[k].expand(3), t[k + 1] - t[k]
        data = exact(x, at)
        u, s = (convert(data, x, DATA, kind, process, at) for kind in (FLOW, SCORE))
        eps = 0.1 + t[k]
        x = x + (u - eps * s) * h + (2 * eps * -h).sqrt() * xi[k]
    assert torch.allclose(got, x, rtol=1e-11, atol=1e-11)


def test_rising_it_noises_as_the_process_does():
    """With the process's own strength u + g^2/2 score = f x: the forward SDE, and no network in it."""
    process, t = VP(), torch.linspace(0.1, 0.9, 7)
    x, xi = torch.randn(3, 2), torch.randn(6, 3, 2)
    plan = StochasticFlow(OwnNoise()).plan(process, Rising(GivenTimes(t)))
    got = run(MIXTURE.denoiser(process), plan, x, noise=GivenNoise(xi))
    for k in range(6):
        h = t[k + 1] - t[k]
        x = x + process.f(t[k]) * x * h + (process.g2(t[k]) * h).sqrt() * xi[k]
    assert torch.allclose(got, x, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    "known, strength",
    [
        (FlowSDE(0.7), OwnNoise(0.7 / math.sqrt(2))),
        (FlowSDE(math.sqrt(2)), OwnNoise()),
        (ConstantFlowSDE(0.4), 0.08),
        (EulerMaruyama(), OwnNoise()),
        (EulerMaruyama(), OwnNoise(Tau(1.0))),
        (FlowEuler(), 0.0),
    ],
    ids=str,
)
def test_what_goes_by_other_names(known, strength):
    for process in (FLOWS, VP()):
        grid = UniformT(8, start=0.9, end=0.1)
        left, right = (expand(m.plan(process, grid)) for m in (known, StochasticFlow(strength)))
        assert torch.allclose(left, right, rtol=1e-12, atol=1e-12)
    assert StochasticFlow(strength).stochastic == known.stochastic


@pytest.mark.parametrize(
    "strength", STRENGTHS, ids=lambda s: "f" if callable(s) and "lambda" in str(s) else str(s)
)
@pytest.mark.parametrize("rising", [False, True], ids=["to data", "to noise"])
def test_the_marginals_are_the_flows(strength, rising):
    """N(0.7, 0.25): mean and variance go to those of the other end, first order in the steps."""
    ends = (0.1, 0.9) if rising else (0.9, 0.1)
    (m, v), exact = (((1 - t) * 0.7, (1 - t) ** 2 * 0.25 + t**2) for t in ends)
    errors = []
    for n in (100, 200):
        grid = UniformT(n, *ends)
        got = moments(StochasticFlow(strength).plan(FLOWS, Rising(grid) if rising else grid), 0.7, 0.25, m, v)
        errors.append(max(abs(g - e) for g, e in zip(got, exact, strict=True)))
    assert errors[1] < 0.01 and math.log2(errors[0] / errors[1]) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("strength", [0.25, Bump(1.5), OwnNoise(0.7)], ids=str)
def test_the_law_of_a_mixture_at_the_end(strength):
    """The chain's transition kernels on a grid of the line carry p_0.9 to p_0.3: total variation, first order."""
    law = Mixture.isotropic(torch.tensor([0.4, 0.6]), torch.tensor([[-1.0], [0.8]]), torch.tensor([0.4, 0.3]))
    grid = torch.linspace(-4.5, 4.5, 361)

    def at(t):
        return law.log_prob(grid[:, None], 1 - t, t).softmax(0)

    found = []
    for n in (12, 24):
        plan = StochasticFlow(strength).plan(FLOWS, UniformT(n, 0.9, 0.3))
        found.append(variation(pushed(at(0.9), kernels(plan, law.denoiser(FLOWS), grid)), at(0.3)))
    assert found[1] < 0.03 and math.log2(found[0] / found[1]) == pytest.approx(1.0, abs=0.2)


def test_exact_strategies_and_grids_per_sample():
    plan = StochasticFlow(Bump()).plan(FLOWS, torch.linspace(1, 0, 7))
    x = torch.randn(4, 2, requires_grad=True)
    exact = MIXTURE.denoiser(FLOWS)
    got, want = (
        torch.autograd.grad(sample(exact, plan, x, noise=Addressed(0), gradient=g).square().sum(), x)[0]
        for g in (Checkpoint(), Direct())
    )
    assert torch.allclose(got, want, rtol=1e-11, atol=1e-12)
    columns = torch.stack([torch.linspace(0.9, low, 5) for low in (0.1, 0.2, 0.3)], 1)
    noise = torch.randn(4, 3, 2)
    both = run(exact, StochasticFlow(0.2).plan(FLOWS, columns), x[:3], noise=GivenNoise(noise))
    for k in range(3):
        one = StochasticFlow(0.2).plan(FLOWS, columns[:, k])
        alone = run(exact, one, x[k : k + 1], noise=GivenNoise(noise[:, k : k + 1]))
        assert torch.allclose(both[k : k + 1], alone, rtol=1e-12, atol=1e-12)


def test_plans_pickle_print_and_compare():
    plan = StochasticFlow(Bump()).plan(FLOWS, UniformT(3))
    assert pickle.loads(pickle.dumps(plan)) == plan == StochasticFlow(Bump()).plan(FLOWS, UniformT(3))
    assert plan != StochasticFlow(Bump(2.0)).plan(FLOWS, UniformT(3)) and "DRIFT(x, t=" in str(plan)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: StochasticFlow(-0.1), "expected"),
        (lambda: StochasticFlow(math.inf), "expected"),
        (lambda: StochasticFlow(lambda t: 0.5 - t).plan(FLOWS, UniformT(4)), "got eps=-0.5 at t=1"),
        (lambda: StochasticFlow(OwnNoise()).plan(FLOWS, UniformT(4)), "got eps=inf at t=1|got eps=nan at t=1"),
        (lambda: OwnNoise(-1.0), "expected"),
        # the score at sigma = 0 cannot take any noise back
        (
            lambda: run(
                MIXTURE.denoiser(FLOWS), StochasticFlow(0.1).plan(FLOWS, Rising(UniformT(4))), torch.zeros(1, 2),
                noise=Addressed(0),
            ),
            "does not determine DRIFT at t=0",
        ),
    ],
)  # fmt: skip
def test_refusals(make, words):
    with pytest.raises(ValueError, match=words):
        make()
