"""The pilot: what it measures, the decay by the orders, and that the levels it chooses are the best."""

from dataclasses import replace

import pytest
import torch
from lines import END, PROCESS, START, line, starts, thetas, worth

from pullback.adjoint import (
    CoupledSum,
    Direct,
    GridLevels,
    IndependentDraws,
    Pilot,
    StratifiedDraws,
    measured_levels,
    sample,
)
from pullback.solvers import DDIM, Addressed, DPMSolverPP, Gaussian, SDEDPMSolverPP, UniformLambda

GRID = UniformLambda(8, start=START, end=END)
ODE, SDE = DPMSolverPP(2), SDEDPMSolverPP(2)


def ladder(method, steps) -> GridLevels:
    return GridLevels(method, PROCESS, GRID, steps, CoupledSum((1.0,) * len(steps)))


def moments_of(method, steps, count, seed=0):
    """A pilot by hand: gradients of all samples at once, at a theta of each sample's own."""
    theta = thetas(count)
    z = Addressed(seed).initial(torch.zeros(count, 2))
    found = ladder(method, steps)
    each = []
    for level in range(len(steps)):
        noise = found.noise(Addressed(seed), tuple(range(count)), level)
        out = sample(
            line(), found.plan(level), starts(theta.detach(), z), cond=theta, noise=noise, gradient=Direct()
        )
        each += torch.autograd.grad(worth(out).sum(), theta)
    return torch.stack(each)  # (K, B, 6)


@pytest.mark.parametrize("method", [ODE, SDE], ids=str)
def test_the_pilot_measures_each_sample_s_gradient(method):
    """Moments against gradients of a whole batch by another way; costs are calls and VJPs."""
    steps, count = (2, 4, 8), 6
    x = starts(thetas(count), Addressed(0).initial(torch.zeros(count, 2))).detach()
    pilot = measured_levels(line(), method, GRID, steps, x, worth, noise=Addressed(0))
    each = moments_of(method, steps, count)
    assert torch.allclose(pilot.second, torch.einsum("kbp,lbp->kl", each, each) / count, rtol=1e-10)
    off = each - each.mean(1, keepdim=True)
    assert torch.allclose(pilot.cov, torch.einsum("kbp,lbp->kl", off, off) / (count - 1), rtol=1e-9)
    assert pilot.costs == (6.0, 12.0, 24.0) and pilot.count == 6
    assert "times less work" in str(pilot)


def pilot_of(each, method, steps) -> Pilot:
    """The pilot of known gradients (K, B, P)."""
    count = each.shape[1]
    second = torch.einsum("kbp,lbp->kl", each, each) / count
    off = each - each.mean(1, keepdim=True)
    cov = torch.einsum("kbp,lbp->kl", off, off) / (count - 1)
    return Pilot(ladder(method, steps), second, cov, tuple(3.0 * n for n in steps), count)


@pytest.mark.parametrize("method, slope", [(ODE, 4), (DDIM(), 2), (SDE, 2)], ids=str)
def test_differences_fall_as_the_order_says(method, slope):
    """E|f_l - f_{l-1}|^2 ~ n^-2p without noise, n^-2 with it (strong order 1), whatever the grids."""
    for steps in ((16, 32, 64, 128), (16, 40, 64, 160)):
        assert pilot_of(moments_of(method, steps, 200), method, steps).decay == pytest.approx(slope, abs=0.6)


@pytest.mark.parametrize(
    "method, draws",
    [
        (ODE, StratifiedDraws()),
        pytest.param(ODE, IndependentDraws(), marks=pytest.mark.slow),
        pytest.param(DDIM(), StratifiedDraws(), marks=pytest.mark.slow),
        pytest.param(DDIM(), IndependentDraws(), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_the_best_levels_are_no_worse_than_any_other(method, draws):
    """Variance times work as predicted is measured over 100 estimates, and no random allocation has less."""
    steps, size, estimates = (2, 4, 8, 32), 40, 100
    each = moments_of(method, steps, estimates * size)
    pilot = pilot_of(each, method, steps)
    found, generator = pilot.levels(draws), torch.Generator().manual_seed(1)
    u, shifts = torch.rand(estimates, size, generator=generator), torch.rand(estimates, generator=generator)

    def variance_times_work(found):
        kept = torch.tensor([steps.index(n) for n in found.steps])
        sums, work = [], 0.0
        for k in range(estimates):
            table = found.allocation.table(draws.of(u[k], float(shifts[k])))
            some = each[kept][: table.shape[1], k * size : (k + 1) * size]
            sums.append(torch.einsum("bk,kbp->p", table, some))
            work += sum(3 * n * float(c) for n, c in zip(found.steps, (table != 0).sum(0), strict=False))
        return float(torch.stack(sums).var(0).sum()) * work / estimates

    predicted = float(pilot.cov[-1, -1]) * pilot.costs[-1] / pilot.gain(draws)
    assert variance_times_work(found) == pytest.approx(predicted, rel=0.4)
    assert pilot.gain(draws) > 1.2
    for _ in range(2):
        shares = torch.rand(3, generator=generator).sort(descending=True).values.tolist()
        other = replace(pilot.ladder, allocation=CoupledSum((1.0, *shares)))
        assert variance_times_work(other) > 0.9 * predicted


def test_where_no_coarse_grid_helps_the_finest_is_alone():
    """Gradients without correlation: nothing is gained, and the exact gradient is what remains."""
    each = torch.randn(3, 4000, 2)
    pilot = pilot_of(each, ODE, (4, 8, 16))
    assert pilot.levels().steps == (16,) and pilot.gain() == pytest.approx(1.0)
    with pytest.raises(ValueError, match="faster than"):
        pilot.endless()
    with pytest.raises(ValueError, match="three or more"):
        print(pilot_of(each[:2], ODE, (4, 8)).decay)
    with pytest.raises(ValueError, match="at least 2 samples"):
        measured_levels(line(), ODE, GRID, (2, 4), torch.zeros(1, 1), worth, noise=Addressed(0))
    with pytest.raises(ValueError, match="one value per sample"):
        measured_levels(line(), ODE, GRID, (2, 4), torch.zeros(2, 1), lambda x: x.sum(), noise=Addressed(0))
    with pytest.raises(ValueError, match="requires grad"):
        model = Gaussian(torch.zeros(1), 1.0).denoiser(PROCESS)  # nothing to train
        measured_levels(model, ODE, GRID, (2, 4), torch.zeros(2, 1), worth, noise=Addressed(0))


def test_endless_levels_follow_the_measured_decay():
    each = moments_of(ODE, (4, 8, 16, 32), 200)
    pilot = pilot_of(each, ODE, (4, 8, 16, 32))
    found = pilot.endless()
    assert found.allocation.beyond == pytest.approx(2 ** (-(1 + min(pilot.decay, 4)) / 2))
    assert found.plan(len(found.steps)).steps == 64 and found.steps == pilot.levels().steps
