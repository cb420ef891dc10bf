"""How strong the noise of a plan should be: none for an exact denoiser, and learned where noise mends something."""

import math

import pytest
import torch

from pullback.adjoint import Checkpoint, sample
from pullback.solvers import DDIM, VP, Addressed, Gaussian, Tau, UniformLambda, compiled

DATA_VARIANCE, PROCESS, GRID = 0.4, VP(), UniformLambda(8, 1.0, 0.02)
EXACT = Gaussian(torch.zeros(1, dtype=torch.float64), DATA_VARIANCE).denoiser(PROCESS)


def after(tau, start):
    """(variance of the samples, that of the model) at the end, from variance `start`, by the recursion of a Gaussian:
    D = alpha v x/m, E = sigma x/m, m = alpha^2 v + sigma^2.
    """
    p, times, found = PROCESS, GRID.times(PROCESS), start
    marginal = lambda t: float(p.alpha(t) ** 2 * DATA_VARIANCE + p.sigma(t) ** 2)  # noqa: E731
    for s, t in zip(times[:-1], times[1:], strict=True):
        h = float(p.lam(t) - p.lam(s))
        noise = float(p.sigma(t)) * math.sqrt(-math.expm1(-2 * tau**2 * h))
        left = math.sqrt(float(p.sigma(t)) ** 2 - noise**2)
        factor = (float(p.alpha(t) * p.alpha(s)) * DATA_VARIANCE + left * float(p.sigma(s))) / marginal(s)
        found = factor**2 * found + noise**2
    return found, marginal(times[-1])


def learned(start, steps=25):
    """log tau by Adam, so that the samples have the model's variance; through the run, with noise drawn anew."""
    theta = torch.tensor([math.log(0.3)], requires_grad=True)
    x = torch.erfinv(2 * (torch.arange(500) + 0.5) / 500 - 1)[:, None] * math.sqrt(2 * start)
    make = lambda at: DDIM(Tau(math.exp(float(at[0])))).plan(PROCESS, GRID)  # noqa: E731
    adam, wanted = torch.optim.Adam([theta], lr=0.15), after(0.0, start)[1]
    for k in range(steps):
        plan, values = compiled(make, theta, EXACT)
        out = sample(EXACT, plan, x, noise=Addressed(k), coefficients=values, gradient=Checkpoint())
        adam.zero_grad()
        (out.var() / wanted).log().square().backward()
        adam.step()
        adam.param_groups[0]["lr"] *= 0.9
    return math.exp(float(theta.detach()))


@pytest.mark.slow
def test_noise_that_mends_a_wrong_start_is_learned_to_its_closed_form():
    """Noise that is too strong at the start: samples are too wide without noise, too narrow with all of it."""
    wrong = 2.0
    low, high = 0.0, 1.0
    assert after(low, wrong)[0] > after(low, wrong)[1] > after(high, wrong)[0]
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if after(middle, wrong)[0] > after(0.0, wrong)[1] else (low, middle)
    assert abs(learned(wrong) - low) < 0.03


def test_an_exact_denoiser_wants_none():
    """From the right start every tau loses variance, and the less the smaller it is."""
    t = GRID.times(PROCESS)[0]
    right = float(PROCESS.alpha(t) ** 2 * DATA_VARIANCE + PROCESS.sigma(t) ** 2)
    lost = [1 - after(tau, right)[0] / after(tau, right)[1] for tau in (0.0, 0.3, 0.6, 1.0)]
    assert lost[0] > 0 and lost == sorted(lost)
    x = math.sqrt(right) * torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0))
    found = sample(EXACT, DDIM(Tau(0.6)).plan(PROCESS, GRID), x, noise=Addressed(0), gradient=None).var()
    assert float(found) == pytest.approx(after(0.6, right)[0], rel=0.03)
