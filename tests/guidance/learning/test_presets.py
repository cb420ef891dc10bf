"""`d_ode` against a plain loop, `ays` against a Gaussian's integrals and against all choices of nodes."""

import itertools

import pytest
import torch

from pullback.adjoint import sample
from pullback.guidance.learning import ays, d_ode
from pullback.guidance.learning.aligned import _cheapest, _klub
from pullback.solvers import (
    DATA,
    DDIM,
    VP,
    Denoiser,
    Gaussian,
    GivenTimes,
    Mixture,
    UniformLambda,
    UniformT,
    V,
    convert,
)

GRID = UniformLambda(4, 1.0, 0.02)
MIXTURE = Mixture.isotropic(
    torch.tensor([0.5, 0.5], dtype=torch.float64),
    torch.tensor([[1.0, 0.3], [-0.8, 0.9]], dtype=torch.float64),
    torch.tensor([0.35, 0.45], dtype=torch.float64),
)
EXACT = MIXTURE.denoiser(VP())


def noise(count, seed=0):
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))


def data_of(x, t):
    return convert(EXACT(x, t.expand(len(x))), x, EXACT.prediction, V, VP(), t)


def test_d_ode_is_the_published_loop():
    """D-DDIM with x_t = alpha (y + rho eps): the loop of the paper in y and rho, for data predictions."""
    p, x, scale = VP(), noise(16), 5
    times = GRID.times(p)
    rho = lambda t: p.sigma(t) / p.alpha(t)  # noqa: E731

    def data(y, t):
        x = p.alpha(t) * y
        return convert(EXACT(x, t.expand(len(x))), x, EXACT.prediction, DATA, p, t)

    def euler(y, s, t):
        d = data(y, s)
        return y + (rho(t) - rho(s)) * (y - d) / rho(s), d

    y = x / p.alpha(times[0])
    targets, teacher = [], y
    for a, b in itertools.pairwise(times):
        fine = torch.linspace(float(a), float(b), scale + 1)
        for s, t in itertools.pairwise(fine):
            teacher, _ = euler(teacher, s, t)
        targets.append(teacher)
    before = None
    for k, (s, t) in enumerate(itertools.pairwise(times)):
        y, d = euler(y, s, t)
        if before is not None:
            change, lacking = (d - before).flatten(), (targets[k] - y).flatten()
            y = y + (change @ lacking) / (change @ change) * (d - before)
        before = d
    plan = d_ode(Denoiser(data_of, p, V), GRID, x, scale=scale)
    assert plan.nfe == 4
    assert (sample(EXACT, plan, x, gradient=None) - p.alpha(times[-1]) * y).abs().max() < 1e-10


def test_d_ode_is_closer_to_its_teacher_on_other_noise():
    x = noise(64, 5)
    plan = d_ode(EXACT, GRID, noise(64), scale=10)
    fine = sample(EXACT, DDIM().plan(VP(), UniformLambda(400, 1.0, 0.02)), x, gradient=None)
    errors = [
        float((sample(EXACT, p, x, gradient=None) - fine).norm(dim=1).median())
        for p in (plan, DDIM().plan(VP(), GRID))
    ]
    assert errors[0] < 0.6 * errors[1]


def test_the_bound_is_a_gaussians():
    """Data N(0, v): D = v/(v + rho^2) y, y = x/alpha, and E|D_r - D_s|^2 = v^2/(v + r^2) - v^2/(v + s^2) for r < s."""
    v, p = 0.6, VP()
    model = Gaussian(torch.zeros(1), v).denoiser(p)
    x0 = v**0.5 * torch.randn(40_000, 1, generator=torch.Generator().manual_seed(0))
    lam = torch.linspace(-2.0, 2.0, 9)
    found = _klub(model, p.time(lam), x0, None, 0)
    rho = (-lam).exp()
    for i in range(8):
        apart = v**2 / (v + rho[i:] ** 2) - v**2 / (v + rho[i] ** 2)
        exact = torch.cumulative_trapezoid(apart / rho[i:] ** 2, lam[i:])
        assert torch.allclose(found[i, i + 1 :], exact, rtol=0.05)


def test_the_nodes_are_the_best_of_all_choices():
    cost = torch.rand(9, 9, generator=torch.Generator().manual_seed(3))
    for steps in (1, 2, 4, 8):
        ways = [(0, *inner, 8) for inner in itertools.combinations(range(1, 8), steps - 1)]
        best = min(ways, key=lambda way: float(sum(cost[a, b] for a, b in itertools.pairwise(way))))
        assert _cheapest(cost, steps) == list(best)


def test_an_aligned_grid_keeps_its_ends_and_is_one_of_any_method():
    x0 = MIXTURE.sample(64, generator=torch.Generator().manual_seed(0))
    grid = ays(EXACT, GRID, x0, levels=20)
    times = grid.times(VP())
    assert isinstance(grid, GivenTimes) and len(times) == 5
    assert (float(times[0]), float(times[-1])) == (1.0, 0.02)
    assert torch.equal(ays(EXACT, GRID, x0, levels=20).times(VP()), times)
    everywhere = ays(EXACT, GRID, x0, levels=4).times(VP())  # as many levels as steps: nothing to choose
    assert (everywhere - GRID.times(VP())).abs().max() < 1e-9


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="finite ends"):
        ays(EXACT, UniformT(4), noise(8))
    with pytest.raises(ValueError, match="levels"):
        ays(EXACT, GRID, noise(8), levels=3)
    columns = torch.stack([GRID.times(VP())] * 8, 1)
    with pytest.raises(ValueError, match="for each sample"):
        d_ode(EXACT, columns, noise(8))


def test_a_data_prediction_that_does_not_change_gives_the_factor_0():
    point = torch.tensor([0.7, -0.4])
    model = Denoiser(lambda x, t: point.expand_as(x), VP(), DATA)
    found = sample(model, d_ode(model, GRID, noise(4)), noise(4), gradient=None)
    plain = sample(model, DDIM().plan(VP(), GRID), noise(4), gradient=None)
    assert (found - plain).abs().max() < 1e-12
