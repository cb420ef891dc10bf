"""Observed order of every public method, for the state and for the gradient."""

import functools
import math

import pytest
import torch
from problems import MIXTURE, PROCESS, every_method, same_order, slots_of, thinned, warped

from pullback.solvers import (
    DEIS,
    DOPRI5,
    DPMSolverPP,
    FlowAdams,
    LangevinCorrected,
    Method,
    RhoRK,
    UniformLambda,
    moments,
    response,
    run,
)

ODE = [m for m in every_method() if not m.stochastic]
SDE = [m for m in every_method() if m.stochastic]
# a Langevin step does not shrink with the grid's: its bias has a test of its own, test_langevin.py
REFINED = [m for m in SDE if not isinstance(m, LangevinCorrected)]


@functools.cache
def solved(method: Method, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    start = torch.randn(
        64, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64
    ).requires_grad_()
    plan = method.plan(PROCESS, PROCESS.time(warped(n)))
    out = run(MIXTURE.denoiser(PROCESS), plan, start)
    (gradient,) = torch.autograd.grad(out.square().sum(), start)
    return out.detach(), gradient


def slopes(method: Method, coarse: int) -> list[float]:
    truth = solved(RhoRK(DOPRI5), 384)
    errors = [
        [float((a - b).norm()) for a, b in zip(solved(method, n), truth, strict=True)]
        for n in (coarse, 2 * coarse)
    ]
    return [math.log2(a / b) for a, b in zip(*errors, strict=True)]


@pytest.mark.parametrize("method", [m for m in ODE if same_order(m)], ids=str)
def test_observed_order_is_the_declared_one(method):
    """State and gradient, Test A; from order 4 on the asymptote is reached later, and the reference resolves it."""
    for slope in slopes(method, 128 if method.order < 4 else 96):
        assert slope == pytest.approx(method.order, abs=0.15 if method.order < 4 else 0.3)


@pytest.mark.parametrize(
    "method, n",
    [
        pytest.param(DPMSolverPP(3), 512, marks=pytest.mark.slow),
        (FlowAdams(3), 512),
        pytest.param(DEIS(3), 1024, marks=pytest.mark.slow),
    ],
    ids=str,
)
@pytest.mark.slow
def test_the_usual_warm_up_leaves_second_order(method, n):
    """One first-order step costs h^2 once, whatever follows it."""
    truth = solved(DEIS(4, starter=True), 2000)[0]
    errors = [float((solved(method, m)[0] - truth).norm()) for m in (n, 2 * n)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2.0, abs=0.15)


@pytest.mark.parametrize("method", REFINED, ids=str)
@pytest.mark.slow
def test_weak_order_by_moment_recursion(method):
    """Test B: Gaussian data, so mean and variance push through the table exactly."""
    mean, var = 0.7, 0.25
    t0 = PROCESS.time(torch.tensor([-2.0, 2.5]))
    a, s = PROCESS.alpha(t0), PROCESS.sigma(t0)
    exact = [(float(a[i] * mean), float(a[i] ** 2 * var + s[i] ** 2)) for i in (0, 1)]
    errors = []
    for n in (256, 512):
        plan = method.plan(PROCESS, UniformLambda(n, start=float(t0[0]), end=float(t0[1])))
        errors.append(abs(moments(plan, mean, var, *exact[0])[1] - exact[1][1]))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(method.order, abs=0.15)


@pytest.mark.parametrize("method", thinned(SDE), ids=str)
def test_noise_response_sums_to_the_variance(method):
    plan = method.plan(PROCESS, UniformLambda(400, start=0.9, end=0.05))
    slots = slots_of(method, 400)
    assert plan.slots == slots and response(plan, 0.0, 1.0).shape == (2 + slots,)
    mean, variance = moments(plan, 0.0, 1.0, 0.0, 1.0)
    # of order 0 with a denoiser: consistency sampling wants a consistency function, test_consistency.py
    assert mean == 0 and (not method.order or variance == pytest.approx(1.0, abs=0.05))
