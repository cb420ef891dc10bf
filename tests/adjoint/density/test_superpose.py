"""Superposed models: OR is the mixture's own sampler, AND ends where all are equally likely."""

import math

import pytest
import torch
from problems import PROCESS

from pullback.adjoint.density.superposition import And, Or, superpose
from pullback.solvers import (
    DDPM,
    EDM,
    NOISE,
    Addressed,
    Denoiser,
    GivenNoise,
    Mixture,
    OnProcess,
    UniformLambda,
    WholeLabels,
    run,
)

MEANS, STD = torch.tensor([[0.9, 0.2], [-0.7, 0.5], [0.1, -0.8]], dtype=torch.float64), 0.4
START, END = 0.9, 0.02


def isotropic(weights, means):
    weights = torch.tensor(weights, dtype=torch.float64)
    return Mixture.isotropic(weights, means, torch.full((len(means),), STD, dtype=torch.float64))


ALONE = [isotropic([1.0], mean[None]) for mean in MEANS]
MODELS = [each.denoiser(PROCESS) for each in ALONE]


FAR = Denoiser(lambda x, t: x, EDM(t_max=2.0), NOISE)  # of no more noise than sigma = 2


def at(t):
    return float(PROCESS.alpha(t)), float(PROCESS.sigma(t))


def densities(data, x, t):
    return torch.stack([each.log_prob(x, *at(t)) for each in data])


def draws(n):
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("steps", [3, 20])
def test_or_is_ddpm_on_the_mixture(steps):
    """With log q exact, as it is for Gaussians of the variance told, to round-off at any number of steps."""
    weights, x = [0.5, 0.3, 0.2], draws(6)
    grid = UniformLambda(steps, start=START, end=END)
    start = densities(ALONE, x, START) + torch.tensor(weights, dtype=torch.float64).log()[:, None]
    out, log_q = superpose(MODELS, grid, x, start, Addressed(3), Or(), variance=STD**2)
    mixture = isotropic(weights, MEANS).denoiser(PROCESS)
    wanted = run(mixture, DDPM().plan(PROCESS, grid), x, noise=Addressed(3))
    assert torch.allclose(out, wanted, rtol=0, atol=1e-12)
    wanted = densities(ALONE, out, END) + (start - densities(ALONE, x, START))
    assert torch.allclose(log_q, wanted, rtol=0, atol=1e-10)
    cold = superpose(MODELS, grid, x, start, Addressed(3), Or(0.0), variance=STD**2)[0]
    assert not torch.allclose(cold, out, atol=1e-3)  # equal weights, whatever the densities


@pytest.mark.parametrize("variance", [STD**2, math.inf])
def test_and_keeps_the_densities_apart_as_they_were(variance):
    """What is followed gains the same under every model, whatever the draw; the sample lies between their means."""
    x = draws(6)
    start = densities(ALONE, x, START)
    grid = UniformLambda(30, start=START, end=END)
    out, log_q = superpose(MODELS, grid, x, start, Addressed(3), And(), variance=variance)
    assert torch.allclose(log_q - log_q[:1], start - start[:1], rtol=0, atol=1e-8)
    if variance < math.inf:
        assert torch.allclose(log_q, densities(ALONE, out, END), rtol=0, atol=1e-8)


def test_gradients_reach_the_start():
    x = draws(2).requires_grad_()
    start = densities(ALONE, x, START)
    out, log_q = superpose(
        MODELS, UniformLambda(5, start=START, end=END), x, start, Addressed(3), variance=STD**2
    )
    (gradient,) = torch.autograd.grad(log_q.sum(), x, retain_graph=True)
    (wanted,) = torch.autograd.grad(densities(ALONE, out, END).sum(), x)
    assert torch.allclose(gradient, wanted, rtol=0, atol=1e-9)


def test_what_does_not_fit_is_refused():
    x, grid = draws(2), UniformLambda(4, start=START, end=END)
    wrong = {
        "expected one; convert": ([MODELS[0], ALONE[1].denoiser(EDM())], grid, torch.zeros(2, 2)),
        "expected one from noise to data": (
            MODELS,
            UniformLambda(4, start=END, end=START),
            torch.zeros(3, 2),
        ),
        r"start: got shape \(2,\)": (MODELS, grid, torch.zeros(2)),
        "models: got none": ([], grid, torch.zeros(0, 2)),
        # what a run refuses before it begins is refused here
        "OnProcess: got a network call at t=0.9": ([OnProcess(FAR, PROCESS)], grid, torch.zeros(1, 2)),
        "WholeLabels": (
            [Denoiser(lambda x, t: x, PROCESS, NOISE, label=WholeLabels())],
            grid,
            torch.zeros(1, 2),
        ),
    }
    for words, (models, given, start) in wrong.items():
        with pytest.raises(ValueError, match=words):
            superpose(models, given, x, start, Addressed(0))


@pytest.mark.parametrize("kappa", [Or(), And()], ids=str)
def test_low_precision_empty_batches_and_autocast(kappa):
    """A state in bfloat16 is carried in float32, log q in its own dtype; autocast is for the networks alone."""
    x, grid = draws(4).float(), UniformLambda(4, start=START, end=END)
    start = densities(ALONE, x, START).double()
    wanted = superpose(MODELS, grid, x, start, Addressed(3), kappa)
    with torch.autocast("cpu", torch.bfloat16):
        got = superpose(MODELS, grid, x, start, Addressed(3), kappa)
    assert [v.dtype for v in got] == [torch.float32, torch.float64]
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(got, wanted, strict=True))
    low = superpose(MODELS, grid, x.bfloat16(), start, Addressed(3), kappa)[0]
    exact = superpose(MODELS, grid, x.bfloat16().float(), start, Addressed(3), kappa)[0]
    assert low.dtype == torch.float32 and torch.equal(low, exact)
    none = superpose(MODELS, grid, x[:0], start[:, :0], Addressed(3), kappa)
    assert [tuple(v.shape) for v in none] == [(0, 2), (3, 0)]


def test_noise_that_does_not_suffice_is_refused_before_any_call():
    x, grid = draws(2), UniformLambda(4, start=START, end=END)

    def never(x, t):
        raise AssertionError("the network was called")

    with pytest.raises(ValueError, match=r"noise: got a tensor of shape \(3, 2, 2\), expected \(4, 2, 2\)"):
        superpose(
            [Denoiser(never, PROCESS, NOISE)], grid, x, torch.zeros(1, 2), GivenNoise(torch.zeros(3, 2, 2))
        )
