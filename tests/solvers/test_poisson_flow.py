"""PFGM++: its kernel, its draws and its field against closed forms, quadrature and the limit D -> inf."""

import math
from typing import Any

import mpmath
import pytest
import torch

from pullback.adjoint import sample
from pullback.solvers import (
    DATA,
    EDM,
    Denoiser,
    DPMSolverPP,
    EDMHeun,
    Karras,
    Mixture,
    PoissonFlow,
    Preconditioned,
    UniformLambda,
)

POINTS = torch.tensor([[-1.0], [0.6]], dtype=torch.float64)
WEIGHTS = torch.tensor([0.3, 0.7], dtype=torch.float64)


def denoised(flow, points=POINTS, weights=WEIGHTS):
    """E[x_0 | x] of points: their kernels' shares."""

    def network(x, t):
        logits = torch.stack([flow.log_kernel(x - point, t) for point in points], 1) + weights.log()
        return logits.softmax(1) @ points

    return Denoiser(network, EDM(), DATA)


@pytest.mark.parametrize("n, d", [(1, 1.0), (1, 2.5), (3, 4.0), (2, 128.0)])
def test_the_kernel_is_the_papers(n, d):
    """Proportional to (|x - y|^2 + r^2)^(-(N + D)/2), r = sigma sqrt(D), and of mass one, by quadrature."""
    flow, sigma = PoissonFlow(d), 0.7
    x = torch.randn(4, n, dtype=torch.float64)
    r = flow.radius(sigma)
    shape = -(n + d) / 2 * (x.square().sum(1) + r**2).log()
    got = flow.log_kernel(x, sigma)
    assert torch.allclose(got - got[0], shape - shape[0], rtol=1e-12, atol=1e-12)

    def shell(radius):
        at = torch.zeros(1, n, dtype=torch.float64)
        at[0, 0] = float(radius)
        return mpmath.mpf(float(flow.log_kernel(at, sigma).exp())) * radius ** (n - 1)

    surface = 2 * math.pi ** (n / 2) / math.gamma(n / 2)
    # u/(1 - u) maps the heavy tail to a bounded interval
    mass = mpmath.quad(lambda u: shell(u / (1 - u)) / (1 - u) ** 2, [0, 0.25, 0.5, 0.75, 0.9999999])
    assert float(surface * mass) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("n, d", [(1, 1.0), (5, 2.0), (64, 128.0), (2, 1e6)])
def test_draws_have_the_inverse_beta_radius_and_no_direction(n, d):
    """|n|^2/D/(1 + |n|^2/D) is Beta(N/2, D/2): its moments, which exist whatever the tail."""
    x = PoissonFlow(d).noise(torch.zeros(40_000, n, dtype=torch.float64), torch.Generator().manual_seed(0))
    square = x.square().sum(1) / d
    beta = square / (1 + square)
    a, b = n / 2, d / 2
    mean, var = a / (a + b), a * b / ((a + b) ** 2 * (a + b + 1))
    assert abs(float(beta.mean()) - mean) < 4 * math.sqrt(var / len(x))
    assert float(beta.var()) == pytest.approx(var, rel=0.05)
    direction = x / x.norm(dim=1, keepdim=True)
    assert float(direction.mean(0).norm()) < 4 / math.sqrt(len(x))
    mixed = PoissonFlow(d).perturbed(x, torch.full((len(x),), 0.5), torch.Generator().manual_seed(1)) - x
    assert torch.allclose(mixed, PoissonFlow(d).prior(x, 0.5, torch.Generator().manual_seed(1)), atol=1e-9)


@pytest.mark.parametrize("d", [1.0, 2.0, 3.0])
def test_the_field_is_that_of_charges_among_further_dimensions(d):
    """dx/dr = E_x/E_r of the Coulomb field of two points in 1 + D dimensions; in sigma (x - D(x, sigma))/sigma."""
    flow, sigma, x = PoissonFlow(d), 0.8, torch.tensor([[0.3], [-2.0]], dtype=torch.float64)
    r = flow.radius(sigma)
    away = torch.stack([x[:, 0] - point for point in POINTS[:, 0]], 1)
    pull = WEIGHTS / (away**2 + r**2) ** ((1 + d) / 2)
    slope = (pull * away).sum(1) / (pull.sum(1) * r)  # dx/dr
    t = torch.full((2,), sigma, dtype=torch.float64)
    got = (x - denoised(flow)(x, t))[:, 0] / t
    assert torch.allclose(got, slope * d**0.5, rtol=1e-12)


def test_the_denoiser_of_a_density_by_quadrature():
    """The ratio of integrals over data N(0.4, 0.09): as D grows it tends to EDM's E[x_0 | x], error 1/D."""
    sigma, x = 0.5, 1.3

    def expected(d):
        flow = PoissonFlow(d)

        def joint(y):
            offset = torch.tensor([[x - float(y)]], dtype=torch.float64)
            return mpmath.exp(float(flow.log_kernel(offset, sigma)) - (y - 0.4) ** 2 / 0.18)

        def integral(integrand) -> Any:
            return mpmath.quad(integrand, [-1, 0, 0.4, 0.8, 2], maxdegree=5)

        return integral(lambda y: y * joint(y)) / integral(joint)

    gaussian = 0.4 + 0.09 / (0.09 + 0.25) * (x - 0.4)
    errors = [abs(float(expected(d)) - gaussian) for d in (1e2, 1e3)]
    assert errors[1] < 1e-3 and errors[0] / errors[1] == pytest.approx(10, rel=0.1)


def quantile(x, sigma):
    """Of x in the law at sigma for D = 1: a mixture of Cauchy laws."""
    return (WEIGHTS * (0.5 + torch.atan((x - POINTS[:, 0]) / sigma) / math.pi)).sum(1)


def test_heun_on_edms_grid_carries_the_laws():
    """D = 1, N = 1: flow lines never cross, so each sample keeps its quantile, from 80 down to 0.05. Second order."""
    model = denoised(PoissonFlow(1.0))
    x = torch.linspace(-300, 300, 41, dtype=torch.float64)[:, None]
    worst = []
    for n in (40, 80):
        out = sample(model, EDMHeun().plan(EDM(), Karras(n, end=0.05)), x, gradient=None)
        worst.append(float((quantile(out, 0.05) - quantile(x, 80.0)).abs().max()))
    assert worst[1] < 2e-3 and math.log2(worst[0] / worst[1]) > 1.7


def test_a_point_is_reached_along_straight_lines():
    """Whatever D: x - y shrinks with sigma, and one step to 0 is at the point."""
    flow = PoissonFlow(3.0)
    start = flow.prior(torch.zeros(6, 4, dtype=torch.float64), 80.0, torch.Generator().manual_seed(0))
    point = torch.ones(1, 4, dtype=torch.float64)
    model = denoised(flow, point, torch.ones(1, dtype=torch.float64))
    low = sample(model, EDMHeun().plan(EDM(), Karras(5, end=0.4)), start, gradient=None)
    assert torch.allclose(low - 1, (start - 1) * 0.4 / 80, rtol=1e-10)
    assert torch.allclose(
        sample(model, EDMHeun().plan(EDM(), Karras(5)), start, gradient=None), point.expand(6, 4)
    )


def test_as_the_dimensions_grow_it_is_edm():
    """The same sampler from the same start: the samples' distance falls as 1/D to that of the Gaussian mixture."""
    mixture = Mixture.isotropic(WEIGHTS, POINTS, 0.0)
    plan = DPMSolverPP(2).plan(EDM(), UniformLambda(20, start=80.0, end=0.3))
    x = 80 * torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    wanted = sample(mixture.denoiser(EDM()), plan, x, gradient=None)
    errors = [
        float((sample(denoised(PoissonFlow(d)), plan, x, gradient=None) - wanted).abs().max())
        for d in (1e4, 1e5)
    ]
    assert errors[1] < 1e-3 and errors[0] / errors[1] == pytest.approx(10, rel=0.15)


def test_training_finds_the_field():
    """Least squares on perturbed samples, of features that hold the answer, finds E[x_0 | x]: the target is right."""
    flow, generator = PoissonFlow(2.0), torch.Generator().manual_seed(0)
    which = torch.multinomial(WEIGHTS, 100_000, replacement=True, generator=generator)
    x0, sigma = POINTS[which], torch.full((100_000,), 0.6, dtype=torch.float64)
    x = flow.perturbed(x0, sigma, generator)
    exact = denoised(flow)(x, sigma)
    # the residual of the target is orthogonal to any function of x
    for feature in (torch.ones_like(x), torch.tanh(x), exact):
        assert abs(float(((x0 - exact) * feature).mean())) < 0.01
    raw = Preconditioned(lambda x, t: x, EDM())
    f = raw.target(x0, x, sigma)
    skip = 0.25 / (0.36 + 0.25)
    assert torch.allclose(f * (0.6 * 0.5 / math.sqrt(0.61)) + skip * x, x0)
    with pytest.raises(ValueError, match="extra: got 0.0"):
        PoissonFlow(0.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits_are_drawn_and_weighed_in_float32(dtype):
    flow, like = PoissonFlow(128.0), torch.zeros(3, 5, dtype=dtype)

    def drawn(x):
        return flow.noise(x, torch.Generator().manual_seed(0))

    assert torch.equal(drawn(like), drawn(like.float()).to(dtype))
    assert flow.perturbed(like, torch.full((3,), 0.5), torch.Generator().manual_seed(0)).dtype == dtype
    offset = torch.full((3, 5), 0.5, dtype=dtype)
    assert torch.equal(flow.log_kernel(offset, 0.7), flow.log_kernel(offset.float(), 0.7))
    with pytest.raises(ValueError, match=r"sigma: got shape \(2,\), expected \(3,\)"):
        flow.perturbed(like, torch.ones(2), torch.Generator())
