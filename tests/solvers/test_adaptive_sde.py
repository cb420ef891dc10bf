"""Adaptive steps of the reverse SDE on a path that survives rejection."""

import math
from dataclasses import dataclass

import pytest
import torch
from problems import MIXTURE, PROCESS

from pullback.adjoint import Checkpoint, Direct, Reversible, sample
from pullback.solvers import (
    VP,
    Brownian,
    FromTorchSDE,
    GottaGoFast,
    Mixture,
    Path,
    Rex,
    StochasticImprovedEuler,
    UniformLambda,
    adapt,
    run,
)
from pullback.solvers.methods.adaptive.search import Search

START, END = 1.0, 0.02
LOW, HIGH = (float(PROCESS.lam(t)) for t in (START, END))
MODEL = MIXTURE.denoiser(PROCESS)


def draws(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def levels(t):
    """(f, g, alpha, sigma) of VP in closed form."""
    beta, alpha = 0.1 + 19.9 * t, math.exp(-19.9 / 4 * t**2 - 0.05 * t)
    return -beta / 2, math.sqrt(beta), alpha, math.sqrt(1 - alpha**2)


def test_the_accepted_steps_are_the_published_loop_s():
    """Algorithm 1 of arXiv 2105.14080, written out along one path: the draw of an attempt is its increment."""
    base, x, (rtol, atol) = Brownian(3, LOW, HIGH, depth=30), draws(1, 2), (0.2, 0.05)
    path = FromTorchSDE(
        lambda ta, tb: base(ta, tb, x), clock=lambda lam: lam
    )  # one that is indifferent to its points
    found = adapt(MODEL, x, GottaGoFast(), START, END, rtol=rtol, atol=atol, noise=path)

    def step(x, state, t, w, z):
        f, g, alpha, sigma = levels(t)
        return x - w * (f * state - g**2 * MIXTURE.score(state, alpha, sigma)) + math.sqrt(w) * g * z

    t, h, state, before, times, tries = START, 0.01 * (START - END), x, x, [START], 0
    while t > END:
        goal = END if t - END <= 1.001 * h else t - h
        w, lam = t - goal, [float(PROCESS.lam(v)) for v in (t, goal)]
        z = path(*lam, state) / math.sqrt(path.width(*lam))
        first = step(state, state, t, w, z)
        both = (first + step(state, first, goal, w, z)) / 2
        scale = torch.maximum(torch.tensor(atol), rtol * torch.maximum(first.abs(), before.abs()))
        error = float(((first - both) / scale).square().mean().sqrt())
        tries += 1
        if error <= 1:
            t, state, before = goal, both, first
            times.append(t)
        h = 0.9 * w * error**-0.9
    assert times == pytest.approx(found.grids[0].tolist(), abs=1e-9) and tries == found.attempts > len(times)
    assert torch.allclose(state, found.state, rtol=0, atol=1e-8)


@dataclass(frozen=True, eq=False)
class Table(Path):
    """A path held at the points of a lattice of lambda, for thousands of samples at once."""

    w: torch.Tensor  # (B, points + 1)

    @classmethod
    def drawn(cls, batch, points=4096):
        steps = torch.randn(batch, points, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        return cls(torch.cat([torch.zeros(batch, 1), steps.cumsum(1)], 1))

    @property
    def unit(self):
        return (HIGH - LOW) / (self.w.shape[1] - 1)

    def index(self, lam):
        return torch.tensor([round((u - LOW) / self.unit) for u in lam])

    def each(self, starts, stops, like):
        rows = torch.arange(len(like))
        return (self.w[rows, self.index(stops)] - self.w[rows, self.index(starts)]).reshape(like.shape)

    def __call__(self, start, stop, like):
        return self.each([start] * len(like), [stop] * len(like), like)

    def width(self, start, stop):
        return max(1.0, float(round((stop - start) / self.unit)))

    def check(self, like):
        pass

    def within(self, low, high):
        return LOW + math.floor((high - LOW) / self.unit + 1e-9) * self.unit


@dataclass(frozen=True, eq=False)
class Redrawn(Table):
    """What the published loop does: another draw for every attempt."""

    def each(self, starts, stops, like):
        fresh = torch.randn(len(like), generator=DICE, dtype=torch.float64)
        return (fresh * (self.index(stops) - self.index(starts)).sqrt()).reshape(like.shape)


DICE = torch.Generator().manual_seed(2)
MEAN, VARIANCE = 0.7, 0.25


def law(t):
    _, _, alpha, sigma = levels(t)
    return alpha * MEAN, alpha**2 * VARIANCE + sigma**2


def searched(path, x, model, tolerance):
    pair = GottaGoFast()
    control = pair.control
    return Search(
        model, pair, START, END, tolerance, tolerance, control, 0.01, 1e-7, 1000, None, path, None, "test"
    ).run(x)


@pytest.mark.parametrize("tolerance", [0.1, pytest.param(0.03, marks=pytest.mark.slow)])
def test_a_path_that_survives_rejection_leaves_the_law(tolerance):
    """Data N(0.7, 0.25) in one dimension, 3000 samples, whose variance is known to 2.6 %. Redrawn, it comes out 42 %
    too large at a tolerance of 0.1 and 63 % at 0.03: a bias that no tolerance cures.
    """
    n, (mean, variance) = 3000, law(START)
    gaussian = Mixture.isotropic(torch.ones(1), torch.tensor([[MEAN]]), torch.tensor([math.sqrt(VARIANCE)]))
    model, x = gaussian.denoiser(PROCESS), mean + math.sqrt(variance) * draws(n, 1)
    table = Table.drawn(n, 2048)
    kept, redrawn = (searched(path, x, model, tolerance) for path in (table, Redrawn(table.w)))
    mean, variance = law(END)
    assert float(kept.x.var()) / variance == pytest.approx(1, abs=0.08)
    assert float(kept.x.mean()) == pytest.approx(mean, abs=0.03)
    assert float(redrawn.x.var()) / variance > 1.35


def test_errors_fall_with_the_tolerance_and_where_fixed_steps_win():
    """Strong error on the mixture against 2048 steps of the same paths. With a grid that fits the problem at hand,
    fixed steps have half the error at the same cost: rejections and a second call a step are not earned back.
    """
    n = 100
    table, x = Table.drawn(2 * n), draws(n, 2)
    both = Rows(table.w)
    fine = StochasticImprovedEuler().plan(PROCESS, UniformLambda(2048, start=START, end=END))
    truth = run(MODEL, fine, x, noise=both.on(fine))
    errors, costs = [], []
    for tolerance in (0.3, 0.03):
        found = searched(both, x, MODEL, tolerance)
        errors.append(float((found.x - truth).square().mean().sqrt()))
        costs.append(float(found.calls.double().mean()))
    assert errors[0] > 3 * errors[1] and errors[1] < 0.12
    fixed = StochasticImprovedEuler().plan(PROCESS, UniformLambda(round(costs[1] / 2), start=START, end=END))
    assert (
        float((run(MODEL, fixed, x, noise=both.on(fixed)) - truth).square().mean().sqrt()) < 0.6 * errors[1]
    )


class Rows(Table):
    """Two coordinates a sample, from two rows each."""

    def each(self, starts, stops, like):
        starts, stops = ([u for u in ends for _ in range(2)] for ends in (starts, stops))
        return super().each(starts, stops, like.reshape(-1, 1)).reshape(like.shape)


def test_the_gradient_is_exact_on_the_accepted_steps():
    """An ordinary plan with noise: plain autograd, Direct and the others agree; so does a plan per sample."""
    x, path = draws(3, 2).requires_grad_(), Brownian(5, LOW, HIGH, depth=30)
    found = adapt(MODEL, x, GottaGoFast(), START, END, rtol=0.3, atol=0.1, noise=path)
    assert found.plan.stochastic and len({len(grid) for grid in found.grids}) > 1

    def graded(model, plan, noise, **named):
        out = sample(model, plan, x, noise=noise, **named)
        return out.detach(), torch.autograd.grad(out.square().sum(), x)[0]

    end, exact = graded(MODEL, found.plan, found.noise, gradient=Direct())
    assert torch.allclose(end, found.state, rtol=0, atol=1e-12)
    for strategy in (Checkpoint(),):
        assert torch.allclose(
            graded(MODEL, found.plan, found.noise, gradient=strategy)[1], exact, rtol=0, atol=1e-12
        )
    for b in range(3):
        own = Brownian(5, LOW, HIGH, depth=30, samples=[b])
        plan = StochasticImprovedEuler().plan(PROCESS, found.grids[b])
        alone = x[b : b + 1].detach().requires_grad_()
        out = run(MODEL, plan, alone, noise=own.on(plan))
        assert torch.allclose(
            torch.autograd.grad(out.square().sum(), alone)[0], exact[b : b + 1], rtol=0, atol=1e-11
        )
    # a reversible method on the same steps and the same path
    plan = Rex(sde=True, zeta=0.9).plan(PROCESS, found.times)
    noise = path.on(plan)
    left, right = (graded(MODEL, plan, noise, gradient=g)[1] for g in (Reversible(), Direct()))
    assert torch.allclose(left, right, rtol=0, atol=1e-6 * float(right.abs().max()))


def test_a_path_of_another_library():
    """Whole batches are asked for, and each sample takes its own row."""
    base = Brownian(6, LOW, HIGH, depth=30)
    theirs = FromTorchSDE(lambda ta, tb: base(ta, tb, torch.empty(2, 2)), clock=lambda lam: lam)
    x = draws(2, 2)
    found = adapt(MODEL, x, GottaGoFast(), START, END, rtol=0.5, atol=0.5, noise=theirs)
    out = run(MODEL, found.plan, x, noise=found.noise)
    assert torch.allclose(out, found.state, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="size"):
        adapt(MODEL, draws(3, 2), GottaGoFast(), START, END, noise=theirs)


def test_the_improved_step_is_the_published_one():
    """One step written out, x and its draw given."""
    x, xi, (s, t) = draws(4, 2), draws(4, 2).flip(0), (0.6, 0.5)
    plan = StochasticImprovedEuler().plan(VP(), [s, t])

    def step(state, at):
        f, g, alpha, sigma = levels(at)
        return (
            x - (s - t) * (f * state - g**2 * MIXTURE.score(state, alpha, sigma)) + math.sqrt(s - t) * g * xi
        )

    first = step(x, s)
    wanted = (first + step(first, t)) / 2
    assert torch.allclose(run(MODEL, plan, x, noise=xi[None]), wanted, rtol=0, atol=1e-13)
    assert plan.nfe == 2 and plan.slots == 1
