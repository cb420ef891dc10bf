"""Continuous adjoints of inversions, from data to noise, and the orders of AdjointDEIS, against a Gaussian's own."""

import math

import pytest
import torch
from problems import MIXTURE, PROCESS

from pullback.adjoint import AdjointDEIS, Checkpoint, Continuous, PerStep, States, Truncated, sample
from pullback.solvers import (
    DEIS,
    EDMPEC,
    FLOW,
    NOISE,
    Denoiser,
    DPMSolverPP,
    EDMHeun,
    FlowEuler,
    FlowMidpoint,
    Method,
    RectifiedFlow,
    UniformLambda,
    UniformT,
    convert,
)

M, S = 0.7, 0.6


def gaussian(process):
    """eps of N(m, S^2); m through the conditioning."""

    def eps(x, t, cond):
        a, sd = process.alpha(t)[:, None], process.sigma(t)[:, None]
        return sd * (x - a * cond) / (a * a * S * S + sd * sd)

    return Denoiser(eps, process, NOISE)


def errors(strategy, method: Method, n, rising=True, process=PROCESS, grid=UniformLambda):
    """Relative, of dx_end/dx_start = sqrt(v_end/v_start) and of dx_end/dm."""
    times = grid(n, start=0.9, end=0.05).times(process)
    plan = method.along(process, times.flip(0) if rising else times)
    ends = [torch.tensor(plan.times[k]) for k in (0, -1)]
    (a0, a1), (s0, s1) = ([float(f(t)) for t in ends] for f in (process.alpha, process.sigma))
    root = math.sqrt((a1 * a1 * S * S + s1 * s1) / (a0 * a0 * S * S + s0 * s0))
    x, m = torch.tensor([[1.3]], requires_grad=True), torch.tensor([M], requires_grad=True)
    out = sample(gaussian(process), plan, x, cond=m, gradient=strategy)
    got = [float(g) for g in torch.autograd.grad(out.sum(), [x, m])]
    return [abs(g / w - 1) for g, w in zip(got, (root, a1 - a0 * root), strict=True)]


@pytest.mark.parametrize("process", [PROCESS, RectifiedFlow()], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("states", States, ids=lambda s: s.name)
@pytest.mark.parametrize(
    "base", [EDMPEC(), DPMSolverPP(2), DEIS(2), EDMHeun()], ids=lambda m: type(m).__name__
)
def test_inversions_are_of_second_order(base, states, process):
    """From data to noise every base and kind of states keeps its order."""
    coarse, fine = (
        errors(Continuous(None, base, states), DPMSolverPP(2), n, True, process) for n in (30, 60)
    )
    assert all(math.log2(a / b) > 1.6 for a, b in zip(coarse, fine, strict=True)), (coarse, fine)


@pytest.mark.parametrize("order, grid, rising", [
    (4, UniformLambda, True), *(
        pytest.param(order, grid, rising, marks=pytest.mark.slow)
        for order in (1, 2, 3, 4) for grid in (UniformLambda, UniformT) for rising in (False, True)
    ),
])  # fmt: skip
def test_orders_of_adjoint_deis(order, grid, rising):
    """On both ways and grids; at 80 steps, past the steps at high noise that turn its sign."""
    coarse, fine = (
        errors(AdjointDEIS(order), DEIS(4, starter=True), n, rising, grid=grid) for n in (120, 360)
    )
    slopes = [math.log2(a / b) for a, b in zip(coarse, fine, strict=True)]
    assert slopes[0] > order - 0.35 and slopes[1] > order - 0.75, (coarse, fine)
    assert order == 1 or max(fine) < 2e-2


@pytest.mark.parametrize(
    "strategy", [
        Continuous(), Continuous(9), Continuous(45), AdjointDEIS(3), AdjointDEIS(4, 10),
        AdjointDEIS(2, states=States.RESOLVED),
    ], ids=str,
)  # fmt: skip
def test_rows_of_a_schedule_along_an_inversion(strategy):
    """Rows of PerStep conditioning sum to the gradient of one condition; a truncated run has those of its steps."""
    plan = DEIS(3).along(PROCESS, UniformT(18, start=0.9, end=0.05).times(PROCESS).flip(0))
    m, rows = torch.tensor([M], requires_grad=True), torch.full((18, 1), M, requires_grad=True)
    x = torch.tensor([[1.3], [0.2]])
    one, many = (
        torch.autograd.grad(sample(gaussian(PROCESS), plan, x, cond=c, gradient=strategy).sum(), v)[0]
        for c, v in ((m, m), (PerStep(rows), rows))
    )
    assert torch.allclose(many.sum(0), one, atol=1e-11) and bool((many != 0).all())
    if strategy.steps is None:
        last = sample(gaussian(PROCESS), plan, x, cond=PerStep(rows), gradient=Truncated(6, strategy))
        (cut,) = torch.autograd.grad(last.sum(), rows)
        assert not cut[:12].any() and torch.allclose(cut[13:], many[13:], rtol=0.1)


def flow_of_mixture():
    """A velocity that has a value at both ends."""
    exact, process = MIXTURE.denoiser(RectifiedFlow()), RectifiedFlow()

    def velocity(x, t):
        t = t.clamp(1e-9, 1 - 1e-9)
        return convert(exact(x, t), x, exact.prediction, FLOW, process, t)

    return Denoiser(velocity, process, FLOW)


def test_from_sigma_zero_to_alpha_zero():
    """Both ends of a rectified flow are nodes of the run; ours are nearer to the flow than the run's own gradient."""
    model, x = flow_of_mixture(), torch.tensor([[1.0, 0.3], [-0.8, 0.9], [0.2, -1.0]])

    def gradient(n, strategy, method: Method = FlowEuler()):
        z = x.clone().requires_grad_()
        plan = method.along(RectifiedFlow(), torch.linspace(0, 1, n + 1, dtype=torch.float64))
        out = sample(model, plan, z, gradient=strategy)
        return torch.autograd.grad((out * torch.tensor([1.0, -0.6])).sum(), z)[0]

    truth = gradient(200, Checkpoint(), FlowMidpoint())
    exact, ours = (
        float((gradient(25, s) - truth).norm() / truth.norm()) for s in (Checkpoint(), Continuous())
    )
    assert ours < 0.5 * exact < 0.1, (exact, ours)
    with pytest.raises(ValueError, match=r"alpha = 0 at t=1"):
        gradient(8, AdjointDEIS())
