"""One Brownian path for every grid: additive, order-free, exact in law, and the right integral for each kind
of step.
"""

import importlib
import importlib.util
import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from problems import MIXTURE, PROCESS, warped

from pullback.adjoint import Checkpoint, Direct, sample
from pullback.solvers import (
    DATA,
    DDIM,
    DDPM,
    ERSDE,
    NOISE,
    VP,
    Addressed,
    Brownian,
    CosineVP,
    Denoiser,
    EulerMaruyama,
    Exponential,
    FromTorchSDE,
    GivenNoise,
    Path,
    Restart,
    Rex,
    SASolver,
    SDEDPMSolver,
    SDEDPMSolverPP,
    Stages,
    UniformLambda,
    run,
)
from pullback.solvers.path import PathNoise

LIKE = torch.empty(3, 5, dtype=torch.float64)


def wide(n: int) -> Brownian:
    """A path over the lambdas of `plans`."""
    return Brownian(n, -2.0, 2.5)


def plans(method, counts):
    return [method.plan(PROCESS, PROCESS.time(torch.linspace(-2.0, 2.5, n + 1))) for n in counts]


@pytest.mark.parametrize("clock", [Exponential(0.0), Exponential(1.0), Exponential(-1.0)], ids=str)
def test_additive_and_the_same_in_any_order(clock):
    """On arbitrary points, from a fresh source at each query or from one that has seen others; with no memory
    at all too.
    """
    points = sorted(
        (torch.rand(9, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 4.5 - 2).tolist()
    )
    source = Brownian(7, -2.0, 2.5, clock)
    whole = {(i, j): source(points[i], points[j], LIKE) for i in range(9) for j in range(i + 1, 9)}
    for i, j in list(whole)[::-1]:
        for fresh in (Brownian(7, -2.0, 2.5, clock), Brownian(7, -2.0, 2.5, clock, keep=0), source):
            assert torch.equal(fresh(points[i], points[j], LIKE), whole[i, j])
        for k in range(i + 1, j):
            parts = whole[i, k] + whole[k, j]
            assert torch.allclose(
                parts, whole[i, j], rtol=0, atol=1e-13 * float(source.width(-2.0, 2.5)) ** 0.5
            )


def test_any_split_of_the_batch_in_any_dtype():
    whole = Brownian(3, 0.0, 1.0, samples=[5, 1, 8])(0.2, 0.9, LIKE)
    for b, name in enumerate([5, 1, 8]):
        assert torch.equal(Brownian(3, 0.0, 1.0, samples=[name])(0.2, 0.9, LIKE[:1])[0], whole[b])
    assert torch.equal(Brownian(3, 0.0, 1.0, samples=[5, 1, 8])(0.2, 0.9, LIKE.float()), whole.float())
    with pytest.raises(ValueError, match="sample ids"):
        Brownian(3, 0.0, 1.0, samples=[5])(0.2, 0.9, LIKE)


@pytest.mark.parametrize("cells, depth", [(1, 4), (3, 2), (5, 1)])
def test_covariance_is_exact(cells, depth):
    """With one unit vector for each address: increments of the lattice are orthogonal and as long as their
    clock is wide, so every address is used, and once. Sums of them then have the law of Brownian motion.
    """
    size = cells << depth
    source = Brownian(0, -1.0, 1.0, cells=cells, depth=depth)
    given = GivenNoise(torch.eye(size + 1)[:, None])
    object.__setattr__(source, "_source", lambda slot, like: given(slot >> (40 - depth), like))
    points = torch.linspace(-1.0, 1.0, size + 1).tolist()
    steps = torch.cat(
        [source(a, b, torch.empty(1, size + 1)) for a, b in zip(points, points[1:], strict=False)]
    )
    widths = [math.exp(2 * b) / 2 - math.exp(2 * a) / 2 for a, b in zip(points, points[1:], strict=False)]
    assert torch.allclose(steps @ steps.T, torch.diag(torch.tensor(widths)), atol=1e-13)
    assert torch.equal((steps != 0).any(0), torch.arange(size + 1) > 0)
    assert source.width(points[1], points[4]) == pytest.approx(sum(widths[1:4]))


@pytest.mark.parametrize("cells", [1, 3])
def test_depth_rounds_and_changes_nothing_else(cells):
    coarse, fine = (Brownian(2, 0.0, 3.0, cells=cells, depth=depth) for depth in (3, 30))
    a, b = 3 / 8, 3 * 5 / 8
    assert torch.equal(coarse(a, b, LIKE), fine(a, b, LIKE))
    assert torch.equal(coarse(a + 0.01, b - 0.01, LIKE), coarse(a, b, LIKE)) and coarse.width(
        a + 0.01, b
    ) == coarse.width(a, b)
    assert not torch.equal(fine(a + 0.01, b - 0.01, LIKE), fine(a, b, LIKE))


def test_drawn_increments_are_normal():
    """65536 draws through `Addressed`: variance, covariance and fourth moment of unequal disjoint intervals."""
    source, like = Brownian(11, -2.0, 2.0), torch.empty(1, 2**16, dtype=torch.float64)
    points = [-1.9, -1.85, -0.4, 0.3, 0.31, 1.99]
    draws = torch.cat(
        [source(a, b, like) / source.width(a, b) ** 0.5 for a, b in zip(points, points[1:], strict=False)]
    )
    error = 2**-8
    assert draws.mean(1).abs().max() < 4 * error and (draws.var(1) - 1).abs().max() < 4 * 2**0.5 * error
    assert (torch.corrcoef(draws) - torch.eye(5)).abs().max() < 4 * error
    assert ((draws**4).mean(1) - 3).abs().max() < 4 * 96**0.5 * error


def test_paths_of_other_seeds_samples_and_streams_are_others():
    like = torch.empty(4, 64, dtype=torch.float64)
    draws = torch.cat(
        [
            Brownian(seed, 0.0, 1.0, samples=ids, stream=stream)(0.0, 1.0, like)
            for seed in (0, 1)
            for ids in (range(4), range(4, 8))
            for stream in (1, 2)
        ]
    )
    draws = torch.cat([draws, Brownian(0, 0.0, 1.0)(0.0, 1.0, like), Addressed(0)(1 << 40, like)])
    assert (torch.corrcoef(draws) - torch.eye(len(draws))).abs().max() < 0.6


def test_a_plan_and_its_refinement_see_one_path():
    """Each unit draw is the weighted sum of the finer ones; all are standard normal."""
    source, (coarse, fine) = wide(0), plans(DDPM(), (5, 10))
    one, two = source.on(coarse), source.on(fine)
    lam = torch.linspace(-2.0, 2.5, 11).tolist()
    for i in range(5):
        a, b = (source.width(lam[j], lam[j + 1]) for j in (2 * i, 2 * i + 1))
        both = (a**0.5 * two(2 * i, LIKE) + b**0.5 * two(2 * i + 1, LIKE)) / (a + b) ** 0.5
        assert torch.allclose(one(i, LIKE), both, atol=1e-12)
    like = torch.empty(1, 4096, dtype=torch.float64)
    draws = torch.cat([two(i, like) for i in range(10)])
    assert (torch.cov(draws) - torch.eye(10)).abs().max() < 0.1


def frozen(kind):
    """A network whose prediction of `kind` never changes: what the exponential steps hold fixed."""
    return Denoiser(lambda x, t: torch.full_like(x, 0.7), PROCESS, kind)


@pytest.mark.parametrize(
    "method, kind, rate",
    [
        (SDEDPMSolverPP(1), DATA, 1.0),
        (DDPM(), DATA, 1.0),
        (DDIM(1.0), DATA, 1.0),
        (SDEDPMSolver(), NOISE, -1.0),
        (SASolver(1, 0, tau=0.5), DATA, 0.25),
        (ERSDE(1, phi=2.5), DATA, 1.5),
    ],
    ids=str,
)
def test_the_right_clock_makes_a_frozen_step_exact(method, kind, rate):
    """Along one path 6, 24 and 7 unequal steps end at the same point, to the lattice's rounding; on another
    clock not.
    """
    x = torch.randn(3, 5)

    def end(grid, clock):
        plan = method.plan(PROCESS, PROCESS.time(grid))
        return run(frozen(kind), plan, x, noise=Brownian(1, -2.0, 2.5, Exponential(clock), depth=40).on(plan))

    six, many, ragged = torch.linspace(-2, 2.5, 7), torch.linspace(-2, 2.5, 25), warped(7)
    reference = end(six, rate)
    for grid in (many, ragged):
        assert torch.allclose(end(grid, rate), reference, rtol=0, atol=1e-9)
        assert float((end(grid, rate - 0.5) - end(six, rate - 0.5)).abs().max()) > 3e-3


def test_strong_order_one_along_the_exact_solution():
    """Data N(m, v): z = x/sigma solves dz = (-z + 2 e^lambda D) dlambda + e^-lambda dW, W on the clock e^{2 lambda}, so

        x_T = Phi x_0 + drift + sigma_T INT e^{-T} (S_T/S_u) dW_u,  S = 1 + e^{2 lambda} v

    with the integral taken along the very path the plans see.
    """
    mean, variance, x = 0.7, 0.25, torch.randn(1, 4096)
    t = PROCESS.time(torch.tensor([-2.0, 2.5]))
    (a0, a1), (s0, s1) = PROCESS.alpha(t).tolist(), PROCESS.sigma(t).tolist()

    def spread(lam):
        return 1 + math.exp(2 * lam) * variance

    source, lam = wide(2), torch.linspace(-2.0, 2.5, 2**10 + 1).tolist()
    integral = torch.zeros_like(x)
    for low, high in zip(lam, lam[1:], strict=False):
        middle = (low + high) / 2
        integral += math.exp(-lam[-1]) * spread(lam[-1]) / spread(middle) * 2**0.5 * source(low, high, x)
    grown = s1 / s0 * math.exp(-4.5) * spread(2.5) / spread(-2.0)
    exact = a1 * mean + grown * (x - a0 * mean) + s1 * integral

    def denoise(x, t):
        a, s = PROCESS.alpha(t)[:, None], PROCESS.sigma(t)[:, None]
        return mean + a * variance / (a**2 * variance + s**2) * (x - a * mean)

    model = Denoiser(denoise, PROCESS, DATA)
    for method in (SDEDPMSolverPP(1), SDEDPMSolverPP(2)):
        counts = plans(method, (32, 64, 128))
        errors = [
            float((run(model, plan, x, noise=source.on(plan)) - exact).square().mean().sqrt())
            for plan in counts
        ]
        rates = [math.log2(p / q) for p, q in zip(errors, errors[1:], strict=False)]
        assert rates == pytest.approx([1.0, 1.0], abs=0.15), (method, errors)
        other = [
            float((run(model, plan, x, noise=Addressed(2)) - exact).square().mean().sqrt()) for plan in counts
        ]
        assert min(other) > 0.9 * max(other) > 30 * errors[-1]  # the law alone says nothing of the path


@pytest.mark.parametrize(
    "method, rate",
    [
        (DDPM(), 1.0),
        (SDEDPMSolverPP(2), 1.0),
        (SDEDPMSolver(), -1.0),
        (SASolver(2, 3), 1.0),
        (EulerMaruyama(), 0.0),
        (ERSDE(2, phi=2.0), 1.0),
    ],
    ids=str,
)
def test_n_2n_4n_steps_close_in_on_each_other(method, rate):
    """A nonlinear denoiser, no reference: successive differences halve along a path, and stay where draws are
    independent.
    """
    x, source = torch.randn(1, 4096), Brownian(4, -2.0, 2.5, Exponential(rate))
    model = Denoiser(lambda x, t: 0.5 * torch.tanh(2 * x), PROCESS, DATA)

    def differences(noise):
        ends = [run(model, plan, x, noise=noise(plan)) for plan in plans(method, (64, 128, 256))]
        return [float((p - q).square().mean().sqrt()) for p, q in zip(ends, ends[1:], strict=False)]

    along, apart = differences(source.on), differences(lambda plan: Addressed(4))
    assert math.log2(along[0] / along[1]) == pytest.approx(1.0, abs=0.15)
    assert apart[1] > 0.7 * apart[0] and apart[1] > 10 * along[1]


class Counted:
    """Counts the draws of a source."""

    def __init__(self, source):
        self.source, self.count = source, 0

    def __call__(self, slot, like):
        self.count += 1
        return self.source(slot, like)


@pytest.mark.parametrize(
    "n, options, each",
    [
        (64, {}, 1.0),
        (50, {"cells": 50}, 1.0),
        (100, {"cells": 25}, 1.0),
        (50, {}, 6.3),
        (50, {"depth": 16, "keep": 96}, 10.2),
    ],
)
def test_draws_for_each_increment(n, options, each):
    """One where the grid's nodes are the tree's, about depth - log2 N elsewhere; in either direction; few
    states are kept.
    """
    (plan,) = plans(DDPM(), (n,))
    for order in (range(n), range(n - 1, -1, -1)):
        source = Brownian(0, -2.0, 2.5, **options)
        counted = Counted(source._source)
        object.__setattr__(source, "_source", counted)
        noise = source.on(plan)
        for slot in order:
            noise(slot, LIKE)
        assert counted.count <= each * n and len(source._kept) <= source.keep


def test_nothing_hidden_is_compared_or_pickled():
    source, (plan,) = wide(3), plans(SDEDPMSolverPP(2), (4,))
    noise = source.on(plan)
    first = noise(2, LIKE)
    first.add_(1.0)  # a caller may write into what it got
    assert torch.equal(noise(2, LIKE) + 1.0, first)
    assert (
        source == wide(3)
        and hash(source) == hash(wide(3))
        and wide(3) != wide(4)
        and "kept" not in repr(source)
    )
    again = pickle.loads(pickle.dumps(noise))
    assert again == noise and not again.path._kept and torch.equal(again(2, LIKE) + 1.0, first)


def test_gradients_see_the_path():
    (plan,), model = plans(SDEDPMSolverPP(2), (6,)), MIXTURE.denoiser(PROCESS)
    x = torch.randn(4, 2, requires_grad=True)
    grads = [
        torch.autograd.grad(sample(model, plan, x, noise=wide(5).on(plan), gradient=g).sum(), x)[0]
        for g in (Checkpoint(), Direct())
    ]
    assert torch.allclose(*grads, rtol=1e-12, atol=1e-14)


def test_a_coordinate_that_is_finite_where_lambda_is_not():
    """DDPM from pure noise: a tree over -t, the clock e^{2 lambda}, which starts at 0."""
    process = CosineVP()

    def clock(u):
        return float(torch.exp(2 * process.lam(-u)))

    def coordinate(lam):
        return -float(process.time(lam))

    source = Brownian(0, -1.0, -0.1, clock)
    ends = []
    for n in (64, 128):
        plan = DDPM().plan(process, np.linspace(1.0, 0.1, n + 1).tolist())
        ends.append(
            run(MIXTURE.denoiser(process), plan, torch.zeros(64, 2), noise=source.on(plan, coordinate))
        )
    assert float((ends[0] - ends[1]).square().mean().sqrt()) < 0.05
    with pytest.raises(ValueError, match="lambda"):
        Brownian(0, -2.0, 2.5).on(plan)


def test_torchsde_paths_are_accepted():
    """Anything called as bm(ta, tb): a stand-in, and torchsde's own interval where that is installed."""
    low, high = (math.exp(2 * v) / 2 for v in (-2.0, 2.5))
    base = Brownian(6, low, high, Exponential(0.0), depth=40)
    made = [lambda ta, tb: base(ta, tb, torch.empty(1, 256))]
    if importlib.util.find_spec("torchsde"):
        theirs = importlib.import_module("torchsde").BrownianInterval
        made.append(theirs(0.9 * low, 1.1 * high, size=(1, 256), dtype=torch.float64, entropy=6))
    x, model = torch.randn(1, 256), Denoiser(lambda x, t: 0.5 * torch.tanh(2 * x), PROCESS, DATA)
    few, many, short = plans(DDPM(), (32, 64, 4))
    for interval in made:
        source = FromTorchSDE(interval)
        draws = torch.cat([source.on(short)(i, x) for i in range(4)])
        assert (torch.cov(draws) - torch.eye(4)).abs().max() < 0.3
        ends = [
            run(model, plan, x, noise=noise)
            for plan in (few, many)
            for noise in (source.on(plan), Addressed(0))
        ]
        along, apart = ((ends[k] - ends[k + 2]).square().mean().sqrt() for k in (0, 1))
        assert float(along) < 0.1 * float(apart)
        assert source.on(few)(3, x.float()).dtype == torch.float32
        with pytest.raises(ValueError, match="size"):
            source.on(few)(0, torch.empty(2, 3))


def test_grids_per_sample_see_each_sample_s_own_path():
    """Equal to B runs of one sample, to round-off; a step without length has no increment."""
    process, grids = VP(), torch.tensor([[0.5, 0.6, 0.5], [0.4, 0.33, 0.4], [0.3, 0.2, 0.3]])
    source, model, x = (
        Brownian(3, -4.0, 4.0, samples=[5, 9, 2], depth=30),
        MIXTURE.denoiser(process),
        torch.randn(3, 2),
    )
    plan = DDPM().plan(process, grids)
    out = run(model, plan, x, noise=source.on(plan))
    assert source.samples is not None
    for k in range(3):
        alone = replace(source, samples=[source.samples[k]])
        plan = DDPM().plan(process, grids[:, k])
        one = run(model, plan, x[k : k + 1], noise=alone.on(plan))
        assert torch.allclose(out[k : k + 1], one, rtol=0, atol=1e-14)
    like = torch.empty(3, 2, dtype=torch.float64)
    starts, stops = [-1.0, 0.5, 1.0], [0.5, 0.5, 2.0]
    rows = source.each(starts, stops, like)
    assert torch.equal(rows, Path.each(source, starts, stops, like)) and not rows[1].any()
    drawn = PathNoise(source, ((tuple(starts), tuple(stops)),))(0, like)
    assert torch.allclose(drawn[0], rows[0] / math.sqrt(source.width(-1.0, 0.5))) and not drawn[1].any()
    assert not PathNoise(source, ((0.5, 0.5),))(0, like).any()


def test_the_cheapest_point_is_one_of_the_tree_s_upper_levels():
    """Within the bounds, on the lattice, with the fewest halvings; without a lattice point between them, the end."""
    source = Brownian(0, -1.0, 3.0, depth=20)
    for low, high, wanted in ((0.9, 1.1, 1.0), (1.1, 1.6, 1.5), (1.01, 1.24, 1.125), (-1.0, -0.9, -1.0)):
        assert source.within(low, high) == wanted
    assert source.within(0.1, 0.1 + 1e-9) == 0.1 + 1e-9 and wide(0).within(0.1, 0.2) <= 0.2
    assert FromTorchSDE(lambda ta, tb: torch.zeros(1)).within(0.1, 0.2) == 0.2


def test_what_has_no_path_is_refused():
    source, process = wide(0), VP()
    grid = UniformLambda(4, start=0.6, end=0.05)
    with pytest.raises(ValueError, match="two draws|2 draws"):
        source.on(Rex(Stages.SHARK, sde=True, zeta=0.999).plan(process, grid))
    with pytest.raises(ValueError, match="2 draws"):
        source.on(Restart(DDIM(), times=2).plan(process, grid))
    with pytest.raises(ValueError, match="inside"):
        source.on(DDPM().plan(process, [1.0, 0.5]))
    with pytest.raises(ValueError, match="depth"):
        source.on(DDPM().plan(process, [0.5, 0.5 - 1e-9]))
    with pytest.raises(ValueError, match="slots"):
        source.on(DDPM().plan(process, [0.5, 0.4])).check(2, LIKE)
    with pytest.raises(ValueError, match="later"):
        source(1.0, 0.5, LIKE)
    with pytest.raises(ValueError, match="increase"):
        Brownian(0, -1.0, 1.0, lambda lam: lam**2)
    with pytest.raises(ValueError, match="increase"):
        Brownian(0, -1.0, 2.0, lambda lam: lam**2)(-1.0, 0.5, LIKE)
    for end in (-1.0, 1.0):
        with pytest.raises(ValueError, match="an increasing, finite clock"):
            Brownian(0, -1.0, 1.0, lambda lam, end=end: lam if lam != end else end * math.inf)
    for wrong in ({"low": 1.0}, {"cells": 0}, {"depth": -1}, {"depth": 41}, {"keep": -1}, {"seed": -1}):
        with pytest.raises(ValueError, match="expected"):
            Brownian(**{"seed": 0, "low": 0.0, "high": 1.0, **wrong})
