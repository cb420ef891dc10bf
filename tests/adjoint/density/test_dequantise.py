"""Dequantisation: laws, entropies, and that the bound is one."""

import math

import pytest
import torch

from pullback.adjoint import (
    Dequantisation,
    GaussianPrior,
    NormalDequantisation,
    UniformDequantisation,
    log_prob,
)
from pullback.solvers import VP, Addressed, DPMSolverPPSingle, Gaussian, GivenNoise, Rising, UniformLambda

END = 0.08  # sigma about 0.1


def plan(n=12, end=END):
    return DPMSolverPPSingle(3).plan(VP(), Rising(UniformLambda(n, start=1.0, end=end)))


def drawn(law: Dequantisation, count=10_000):
    alpha, sigma = (float(f(END)) for f in (VP().alpha, VP().sigma))
    x = law(torch.zeros(count, 1), plan(2), Addressed(3))[:, 0] / alpha
    return x, alpha, sigma


def test_uniform_is_uniform():
    x, alpha, sigma = drawn(UniformDequantisation(0.25))
    assert float(x.abs().max()) <= 0.125
    ranks = x.sort().values / 0.25 + 0.5
    assert float((ranks - torch.linspace(0, 1, len(x))).abs().max()) < 0.02
    found = UniformDequantisation(0.25).entropy(torch.tensor(alpha), torch.tensor(sigma))
    assert abs(float(found) - math.log(alpha * 0.25)) < 1e-12


@pytest.mark.parametrize("width", [0.05, 0.25, 1.0])
def test_normal_is_cut_and_has_its_entropy(width):
    x, alpha, sigma = drawn(NormalDequantisation(width))
    assert float(x.abs().max()) <= width / 2
    grid = torch.linspace(-width * alpha / 2, width * alpha / 2, 20_001)
    q = torch.exp(-0.5 * (grid / sigma) ** 2)
    q = q / torch.trapezoid(q, grid)
    entropy = -float(torch.trapezoid(q * q.log(), grid))
    law = NormalDequantisation(width)
    assert abs(float(law.entropy(torch.tensor(alpha), torch.tensor(sigma))) - entropy) < 1e-6
    variance = float(torch.trapezoid(q * grid**2, grid))
    assert abs(float((x * alpha).var()) / variance - 1) < 0.06


@pytest.mark.parametrize("kind", [UniformDequantisation, NormalDequantisation])
def test_it_bounds_the_bits_of_the_levels(kind):
    """Levels of width 1/2 of a Gaussian: E[-log2 P] exactly, and the bound above it by less than a tenth of a bit."""
    law, width = Gaussian(torch.zeros(2), 0.5), 0.5
    alpha, sigma = (float(f(END)) for f in (VP().alpha, VP().sigma))
    std = math.sqrt(alpha**2 * 0.5 + sigma**2)
    normal = torch.distributions.Normal(0.0, std)
    levels = torch.arange(-8, 9) * width
    cells = normal.cdf(alpha * (levels + width / 2)) - normal.cdf(alpha * (levels - width / 2))
    exact = -float((cells * cells.log2()).sum())
    dequantise = kind(width)
    data = levels[torch.multinomial(cells, 800, replacement=True).view(400, 2)]
    sampled = -float(cells.log2()[(data / width + 8).round().long()].mean())
    x = dequantise(data, plan(), Addressed(0))
    value = log_prob(law.denoiser(VP()), plan(), x, prior=GaussianPrior(0.0, 0.5)).value
    bits = dequantise.bits_per_dim(value, plan(), 2)
    assert bits.shape == (400,) and sampled - 0.02 < float(bits.mean()) < sampled + 0.1
    assert abs(sampled - exact) < 0.15


def test_the_formula_for_bytes():
    """At sigma = 0 with levels 2/255 apart: -log p/(d log 2) + log2(127.5)."""
    at_zero = DPMSolverPPSingle(3).plan(VP(), Rising([0.0, 0.5, 1.0]))
    value = torch.tensor([-3.0, 10.0])
    found = UniformDequantisation(2 / 255).bits_per_dim(value, at_zero, 5)
    assert torch.allclose(found, -value / 5 / math.log(2) + math.log2(127.5), atol=1e-12)


def test_refusals():
    with pytest.raises(ValueError, match="sigma = 0"):
        NormalDequantisation(0.1)(
            torch.zeros(2, 2), DPMSolverPPSingle(3).plan(VP(), Rising([0.0, 1.0])), Addressed(0)
        )
    with pytest.raises(ValueError, match="width"):
        UniformDequantisation(0.0)


def test_draws_that_do_not_fit_are_refused():
    x = torch.zeros(3, 4)
    with pytest.raises(ValueError, match=r"noise: got a tensor of shape \(1, 4\), expected \(1, 3, 4\)"):
        UniformDequantisation(0.1)(x, plan(), GivenNoise(torch.zeros(1, 4)))
