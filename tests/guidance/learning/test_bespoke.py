"""Bespoke solvers against the paper's loop in transformed coordinates, S4S against a plain multistep loop."""

import itertools
import math

import pytest
import torch
from tqdm.auto import tqdm

from pullback.adjoint import sample
from pullback.guidance.learning import (
    Kept,
    LearnedCoefficients,
    LearnedLabels,
    LearnedScaleTime,
    LearnedTimes,
    bespoke,
    learn_solver,
    s4s,
)
from pullback.guidance.learning.best_so_far import BestSoFar
from pullback.guidance.learning.gauss_newton import GaussNewton
from pullback.guidance.learning.multistep_solver import _relaxed
from pullback.guidance.learning.part import Draft
from pullback.guidance.learning.student import Draws, Student
from pullback.solvers import (
    DATA,
    DDIM,
    DEIS,
    FLOW,
    VP,
    CosineVP,
    Denoiser,
    DPMSolverPP,
    FlowEuler,
    FlowMidpoint,
    Gaussian,
    GivenTimes,
    Mixture,
    RectifiedFlow,
    UniformLambda,
    UniformT,
    convert,
)

TWO = DPMSolverPP(2, cap=math.inf)
GRID, FINE = UniformLambda(4, 1.0, 0.02), UniformLambda(20, 1.0, 0.02)
MIXTURE = Mixture.isotropic(
    torch.tensor([0.3, 0.45, 0.25], dtype=torch.float64),
    torch.tensor([[1.0, 0.3], [-0.8, 0.9], [0.2, -1.1]], dtype=torch.float64),
    torch.tensor([0.35, 0.45, 0.3], dtype=torch.float64),
)
EXACT = MIXTURE.denoiser(VP())


def noise(count, seed=0):
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))


def random(count, scale, seed=0):
    return scale * torch.randn(count, generator=torch.Generator().manual_seed(seed))


def predicted(model, kind, x, t):
    return convert(model(x, t.expand(len(x))), x, model.prediction, kind, model.process, t)


def made(model, grid, order, theta=None):
    part, given = LearnedScaleTime(order), Draft(DDIM().plan(model.process, grid))
    count = part.size(given, model)
    return part.applied(given, torch.zeros(count) if theta is None else theta(count), model).plan


def papers_loop(model, grid, order, theta, x):
    """RK1 and RK2 of dY/dr = (s'/s) Y + s tau' v(Y/s, tau) with h = 1, every number by itself, v = E - D."""
    p, times = model.process, grid.times(model.process)
    tau = (p.sigma(times) / (p.alpha(times) + p.sigma(times))).tolist()
    calls = order * (len(tau) - 1)
    gaps = [(tau[k // order + 1] - tau[k // order]) / order for k in range(calls)]
    g, log_s, ds, rate = torch.cat([torch.zeros(1), theta]).split(calls)
    gaps = [gap * math.exp(by) for gap, by in zip(gaps, g, strict=True)]
    share = [(tau[-1] - tau[0]) * gap / sum(gaps) for gap in gaps]
    at = [tau[0] + sum(share[:k]) for k in range(calls)] + [tau[-1]]
    s = [1.0, *map(math.exp, log_s)]

    def unit(k):  # alpha + sigma where sigma/(alpha + sigma) is tau_k
        t = times[0] if k == 0 else times[-1] if k == calls else p.time(math.log((1 - at[k]) / at[k]))
        return p.alpha(t) + p.sigma(t), t

    def velocity(y, k):
        c, t = unit(k)
        x = c * y / s[k]
        data = predicted(model, DATA, x, t)
        return (x - p.alpha(t) * data) / p.sigma(t) - data

    y = s[0] * x / unit(0)[0]
    for k in range(0, calls, order):
        if order == 1:
            dtau = (at[k + 1] - at[k]) * math.exp(rate[k])
            y = y + ds[k] * y / s[k] + s[k] * dtau * velocity(y, k)
            continue
        dtau = 2 * (at[k + 1] - at[k]) * math.exp(rate[k])
        z = y + (ds[k] * y / s[k] + s[k] * dtau * velocity(y, k)) / 2
        m, dtau = k + 1, (at[k + 2] - at[k]) * math.exp(rate[k + 1])
        y = y + ds[m] * z / s[m] + s[m] * dtau * velocity(z, m)
    return unit(calls)[0] * y / s[calls]


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("process", [VP(), CosineVP(), RectifiedFlow()], ids=str)
def test_a_learned_scale_and_time_is_the_papers_loop(process, order):
    model, x = MIXTURE.denoiser(process), noise(4)
    grid = UniformT(4) if isinstance(process, RectifiedFlow) else UniformLambda(4, 0.99, 0.02)
    for seed in range(3):
        theta = random(4 * order * 4 - 1, 0.3, seed)
        plan = made(model, grid, order, lambda _, theta=theta: theta)
        assert plan.nfe == 4 * order and plan.order == order
        mine, plain = sample(model, plan, x, gradient=None), papers_loop(model, grid, order, theta, x)
        assert (mine - plain).abs().max() < 1e-11 * plain.abs().max().clamp(min=1)


def test_at_nought_it_is_ddim_and_the_flows_midpoint():
    flow = MIXTURE.denoiser(RectifiedFlow())
    for model, grid, order, method in (
        (EXACT, GRID, 1, DDIM()),
        (EXACT, UniformT(4), 1, DDIM()),
        (flow, UniformT(4), 1, DDIM()),
        (flow, UniformT(4), 2, FlowMidpoint()),
    ):
        mine, plain = (
            sample(model, plan, noise(4), gradient=None)
            for plan in (made(model, grid, order), method.plan(model.process, grid))
        )
        assert (mine - plain).abs().max() < 1e-12


def test_its_order_is_that_of_its_base_under_a_smooth_scale_and_clock():
    """s = 1 + r/2, and the clock bent: the paper's theorem, with nodes and slopes of the same smooth functions."""
    model, x = MIXTURE.denoiser(RectifiedFlow()), noise(4)
    exact = sample(model, DEIS(3).plan(model.process, UniformT(300, 0.95, 0.05)), x, gradient=None)

    def error(order, n):
        calls = order * n
        r = torch.linspace(0, 1, calls + 1)
        tau = 0.95 - 0.9 * (r + 0.4 * r * (1 - r))
        slope = -0.9 * (1 + 0.4 * (1 - 2 * r)) / n
        behind = tau.diff() if order == 1 else torch.stack(
            [2 * (tau[1::2] - tau[:-1:2]), tau[2::2] - tau[:-2:2]], 1).flatten()  # fmt: skip
        s = 1 + r / 2
        theta = torch.cat(
            [
                (tau.diff() / tau.diff()[0]).log()[1:], s[1:].log(), torch.full((calls,), 0.5 / n),
                (slope[:-1] / behind).log(),
            ]
        )  # fmt: skip
        plan = made(model, UniformT(n, 0.95, 0.05), order, lambda _: theta)
        return float((sample(model, plan, x, gradient=None) - exact).norm())

    for order in (1, 2):
        assert abs(math.log2(error(order, 16) / error(order, 32)) - order) < 0.2


def test_s4s_is_a_multistep_loop_with_its_factor_of_the_state():
    """2M written out, with the last three predictions in each step by numbers of their own."""
    p, x, times = VP(), noise(4), GRID.times(VP())
    part, plan = LearnedCoefficients(3, Kept.STATE), TWO.plan(VP(), GRID)
    theta = random(part.size(Draft(plan), EXACT), 0.3)
    assert len(theta) == 1 + 2 + 3 + 3
    found = sample(EXACT, part.applied(Draft(plan), theta, EXACT).plan, x, gradient=None)
    rest, seen, lam = iter(theta.tolist()), [], p.lam(times)
    for i, (s, t) in enumerate(itertools.pairwise(times)):
        seen.insert(0, predicted(EXACT, DATA, x, s))
        gain = -p.alpha(t) * math.expm1(lam[i] - lam[i + 1])
        b = [gain, 0.0, 0.0]
        if i:
            half = (lam[i + 1] - lam[i]) / (lam[i] - lam[i - 1]) / 2
            b = [gain * (1 + half), -gain * half, 0.0]
        most = max(map(abs, b))
        x = p.sigma(t) / p.sigma(s) * x
        for k, data in enumerate(seen[:3]):
            x = x + (b[k] + most * next(rest)) * data
    assert (found - x).abs().max() < 1e-12


def gaussian_setting(radius):
    """A linear student, x_0 = c x: from any start one step reaches the target, as far as the ball lets it."""
    model = Gaussian(torch.zeros(2), 0.3).denoiser(VP())
    plan = TWO.plan(VP(), GRID)
    x, target = noise(6), 0.1 * noise(6, 1)
    best = BestSoFar(model, plan, Draws(x, None, target), torch.nn.Identity())
    before = best.nfe
    moved = _relaxed(best, Draft(plan), Draws(x, None, target), x, radius)
    return x, moved, sample(model, plan, moved, gradient=None) - target, best.nfe - before


def test_relaxed_starts_reach_the_target_or_the_edge_of_the_ball():
    x, moved, residual, calls = gaussian_setting(100.0)
    assert residual.abs().max() < 1e-6 and calls == 2 * 6 * 4
    x, moved, residual, _ = gaussian_setting(0.01)
    away = (moved - x).square().mean(1).sqrt()
    assert (away - 0.01).abs().max() < 1e-9 and residual.abs().max() > 1e-3


def test_a_turn_moves_its_own_numbers_alone():
    plan, x = TWO.plan(VP(), GRID), noise(8)
    target = sample(EXACT, DEIS(3).plan(VP(), FINE), x, gradient=None)
    parts = [LearnedTimes(TWO), LearnedCoefficients(3, Kept.STATE)]
    best = BestSoFar(EXACT, plan, Draws(x, None, target), torch.nn.Identity())
    known = {parts[0]: torch.tensor([0.1, -0.1, 0.05])}
    _, found = best.stage(Draws(x, None, target), parts, known, 2, tqdm(disable=True), {parts[1]})
    assert torch.equal(found[parts[0]], known[parts[0]]) and bool((found[parts[1]] != 0).all())


def test_presets_learn_and_give_plans_of_the_calls_that_they_say():
    teacher, x = DEIS(3).plan(VP(), FINE), noise(12)
    for found, calls in (
        (bespoke(EXACT, GRID, teacher, x, order=1, steps=2, progress=False), 4),
        (bespoke(EXACT, UniformLambda(2, 1.0, 0.02), teacher, x, steps=2, progress=False), 4),
        (s4s(EXACT, GRID, teacher, x, rounds=1, steps=2, progress=False), 4),
        (s4s(EXACT, GRID, teacher, x, rounds=1, steps=2, radius=0.001, progress=False), 4),
    ):
        assert found.plan.nfe == calls and not found.plan.stochastic
        assert float(found.after.mean()) < 0.7 * float(found.before.mean())
        out, target = (sample(EXACT, plan, x[9:], gradient=None) for plan in (found.plan, teacher))
        assert torch.equal((out - target).square().mean(1).sqrt(), found.after)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = torch.nn.Linear(4, 8), torch.nn.Linear(8, 3), torch.nn.Linear(2, 8)

    def forward(self, x, t, cond):
        return self.b(torch.tanh(self.a(torch.cat([x, t[:, None]], 1)) + self.c(cond)))


@pytest.mark.parametrize("seed", [0, 2])
def test_a_number_whose_curvature_is_not_in_its_slopes_holds_up_no_other(seed):
    """On a network that is not far from straight the residual bends along the nodes a thousand times more than its
    slopes say: steps of all numbers together were too long for them at every damping, and nothing was learned.
    """
    torch.manual_seed(seed)
    x, cond, net = torch.randn(12, 3), torch.randn(12, 2), Net()
    model, grid = Denoiser(net, RectifiedFlow(), FLOW), UniformT(3, start=1.0, end=0.0)
    teacher = FlowEuler().plan(RectifiedFlow(), UniformT(40, start=1.0, end=0.0))
    plan, others = DDIM().plan(RectifiedFlow(), grid), [LearnedCoefficients(), LearnedLabels()]
    alone, both = (
        learn_solver(model, plan, teacher, x, learn=learn, cond=cond, steps=8, progress=False)
        for learn in (others, [LearnedTimes(DDIM()), *others])
    )
    assert float(both.after.mean()) < 3 * float(alone.after.mean()) < 0.5 * float(alone.before.mean())
    found = bespoke(model, grid, teacher, x, order=1, cond=cond, steps=8, progress=False)
    assert float(found.after.mean()) < 0.6 * float(found.before.mean())


def test_what_slopes_leave_out_is_the_losses_own_second_derivative():
    """S + A has the diagonal of the Hessian of sum_b |r_b|, times the numbers of a sample, where that is more."""
    model, grid = EXACT, UniformLambda(3, 1.0, 0.02)
    plan, teacher = DDIM().plan(VP(), grid), DDIM().plan(VP(), FINE)
    x = noise(6)
    student = Student(model, plan, [LearnedTimes(DDIM())])
    descent = GaussNewton(
        student, Draws(x, None, sample(model, teacher, x, gradient=None)), torch.nn.Identity(), torch.zeros(2)
    )

    def loss(theta):
        made = sample(model, student.draft(theta).plan, x, gradient=None)
        return (made - descent.batch.target).square().mean(1).sqrt().mean()

    for k in range(2):
        e = torch.eye(2)[k] * 1e-2
        fine = (loss(e) + loss(-e) - 2 * loss(0 * e)) / 1e-4
        assert torch.isclose(descent._second_difference(k), fine, rtol=2e-2)


def test_what_does_not_fit_is_refused():
    teacher = DEIS(3).plan(VP(), FINE)
    columns = torch.stack([GRID.times(VP())] * 8, 1)
    rising = GivenTimes([0.1, 0.4, 1.0])
    for preset in (bespoke, s4s):
        with pytest.raises(ValueError, match="for each sample"):
            preset(EXACT, columns, teacher, noise(8))
    with pytest.raises(ValueError, match="rising grid"):
        bespoke(EXACT, rising, teacher, noise(8))
    with pytest.raises(ValueError, match=r"1 \(Euler\) or 2"):
        bespoke(EXACT, GRID, teacher, noise(8), order=3)
    with pytest.raises(ValueError, match="teacher: .*same ends"):
        s4s(EXACT, UniformLambda(4, 1.0, 0.05), teacher, noise(8))
