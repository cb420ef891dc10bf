"""Ancestral sampling against k-diffusion's loops, and DDPM's two variances."""

import math

import mpmath
import pytest
import torch
from mpmath import mpf
from problems import MIXTURE, PROCESS, warped

from pullback.solvers import (
    DDIM,
    DDPM,
    EDM,
    NOISE,
    SEEDS,
    Ancestral,
    Combine,
    DPMSolverPP,
    DPMSolverPPSingle,
    EDMHeun,
    GivenNoise,
    PosteriorVariance,
    RectifiedFlow,
    Tau,
    Transitions,
    UniformLambda,
    UniformT,
    moments,
    run,
)

SIGMAS = [10.0, 4.0, 1.5, 0.5, 0.1, 0.0]


def split(high: float, low: float, eta: float) -> tuple[float, float]:
    """k-diffusion's get_ancestral_step: (sigma_down, sigma_up)."""
    up = min(low, eta * (low**2 * (high**2 - low**2) / high**2) ** 0.5)
    return (low**2 - up**2) ** 0.5, up


def euler(model, x, high, down):
    return x + (x - model(x, high)) / high * (down - high)


def dpm_2(model, x, high, down):
    """sample_dpm_2_ancestral: the middle in log sigma."""
    if down == 0:
        return euler(model, x, high, down)
    middle = math.exp((math.log(high) + math.log(down)) / 2)
    late = euler(model, x, high, middle)
    return x + (late - model(late, middle)) / middle * (down - high)


def dpmpp_2s(model, x, high, down):
    """sample_dpmpp_2s_ancestral, in t = -log sigma."""
    data = model(x, high)
    if down == 0:
        return euler(model, x, high, down)
    h = math.log(high / down)
    middle = high * math.exp(-h / 2)
    stage = middle / high * x - math.expm1(-h / 2) * data
    return down / high * x - math.expm1(-h) * model(stage, middle)


@pytest.mark.parametrize("eta", [0.4, 1.0])
@pytest.mark.parametrize(
    "base, by_hand",
    [(DDIM(), euler), (SEEDS(2, NOISE, tau=0.0), dpm_2), (DPMSolverPPSingle(2), dpmpp_2s)],
    ids=["euler", "dpm_2", "dpmpp_2s"],
)
def test_the_ancestral_samplers_of_k_diffusion(base, by_hand, eta):
    model, x, draws = MIXTURE.denoiser(EDM()), 10 * torch.randn(4, 2), torch.randn(4, 4, 2)
    plan = Ancestral(base, eta).plan(EDM(), SIGMAS)
    got, want = run(model, plan, x, noise=GivenNoise(draws)), x
    for i, (high, low) in enumerate(zip(SIGMAS, SIGMAS[1:], strict=False)):
        down, up = split(high, low, eta)
        want = by_hand(lambda x, s: model(x, torch.tensor(s).expand(4)), want, high, down)
        if low:
            want = want + up * draws[i]
    assert plan.slots == 4 and torch.allclose(got, want, atol=1e-12)


def test_without_noise_it_is_the_base():
    x, model, grid = torch.randn(3, 2), MIXTURE.denoiser(PROCESS), PROCESS.time(warped(5))
    for base in (DDIM(), DPMSolverPPSingle(3), EDMHeun()):
        plan = Ancestral(base, 0.0).plan(PROCESS, grid)
        assert plan.slots == 0 and not plan.stochastic
        assert torch.equal(run(model, plan, x), run(model, base.plan(PROCESS, grid), x))


def test_its_steps_are_gaussian_and_known():
    """The draw ends the step, so a policy gradient may use them."""
    plan = Ancestral(DPMSolverPPSingle(2)).plan(PROCESS, PROCESS.time(warped(5)))
    h = PROCESS.lam(torch.tensor(plan.times, dtype=torch.float64)).diff()
    wanted = PROCESS.sigma(torch.tensor(plan.times[1:], dtype=torch.float64)) * (-torch.expm1(-2 * h)).sqrt()
    assert Transitions(plan).stds == pytest.approx(wanted.tolist())


@pytest.mark.parametrize("eta", [0.5, 1.0, Tau(2.0)], ids=str)
def test_ends_and_a_process_that_ends_above(eta):
    """From alpha = 0; to sigma = 0; and where sigma_down lies below the least sigma: less noise, the law kept."""
    model, process = MIXTURE.denoiser(RectifiedFlow()), RectifiedFlow()
    for n in (1, 2, 5):
        plan = Ancestral(DPMSolverPPSingle(2), eta).plan(process, UniformT(n))
        noise = GivenNoise(torch.randn(max(plan.slots, 1), 3, 2))
        assert bool(run(model, plan, torch.randn(3, 2), noise=noise).isfinite().all())
    if eta == 1.0:
        assert Transitions(plan).stds == pytest.approx(Transitions(DDPM().plan(process, UniformT(n))).stds)
    floor = EDM(t_min=0.3)
    plan = Ancestral(EDMHeun(), eta).plan(floor, torch.linspace(5.0, 0.31, 300, dtype=torch.float64))
    assert plan.nfe == 2 * 299
    assert moments(plan, 0.7, 0.25, 0.7, 0.25 + 25.0)[1] == pytest.approx(0.25 + 0.31**2, abs=2e-3)


def test_bases_that_it_cannot_split():
    with pytest.raises(ValueError, match=r"multistep DPMSolverPP.*reads D0"):
        Ancestral(DPMSolverPP(2)).plan(PROCESS, UniformT(4, end=0.1))
    with pytest.raises(ValueError, match="stochastic base DDPM"):
        Ancestral(DDPM())
    with pytest.raises(ValueError, match="eta=1.5"):
        Ancestral(DDIM(), 1.5)


# DDPM's variance
# ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [10, 100, 1000])
def test_the_large_variance_is_beta(n):
    """The variance of the forward step, sigma_s^2 - (alpha_s sigma_t/alpha_t)^2; the mean is as it was."""
    both = (PosteriorVariance.SMALL, PosteriorVariance.LARGE)
    plans = [DDPM(v).plan(PROCESS, UniformLambda(n, start=1.0, end=1e-3)) for v in both]
    t = torch.tensor(plans[0].times, dtype=torch.float64)
    with mpmath.workdps(50):
        alpha, sigma = ([mpf(v) for v in f(t).tolist()] for f in (PROCESS.alpha, PROCESS.sigma))
        for i in sorted({0, 1, n // 2, n - 1}):
            small, large = ([op for op in p.step(i) if isinstance(op, Combine)][0] for p in plans)
            beta = sigma[i] ** 2 - (alpha[i] / alpha[i + 1] * sigma[i + 1]) ** 2
            assert small.terms == large.terms
            assert abs(large.noise[0][0] - mpmath.sqrt(beta)) < 1e-12
            assert abs(small.noise[0][0] - mpmath.sqrt(beta) * sigma[i + 1] / sigma[i]) < 1e-12


def test_each_variance_is_exact_for_its_data():
    """SMALL for data in one point, LARGE for N(0, 1): one long step, and the law of the next node is exact."""
    times = PROCESS.time(torch.tensor([-1.0, 0.5], dtype=torch.float64))
    alpha, sigma = PROCESS.alpha(times).tolist(), PROCESS.sigma(times).tolist()
    large = DDPM(PosteriorVariance.LARGE).plan(PROCESS, times)
    assert moments(large, 0.0, 1.0, 0.0, 1.0)[1] == pytest.approx(1.0, rel=1e-12)
    small = DDPM().plan(PROCESS, times)
    assert moments(small, 0.4, 0.0, 0.4 * alpha[0], sigma[0] ** 2) == pytest.approx(
        (0.4 * alpha[1], sigma[1] ** 2)
    )
    assert moments(small, 0.0, 1.0, 0.0, 1.0)[1] < 0.9


def test_the_last_step_of_the_large_variance_draws_nothing():
    plan = DDPM(PosteriorVariance.LARGE).plan(RectifiedFlow(), UniformT(4))
    assert plan.slots == 3 and Transitions(plan).excluded == (3,)
