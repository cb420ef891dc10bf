"""Weak and strong order of the methods with noise beyond the sweep's fixed step counts: Test B by moment recursion."""

import math

import numpy as np
import pytest
import torch
from problems import MIXTURE, PROCESS, warped

from pullback.solvers import (
    ERSDE,
    EDMHeun,
    Method,
    Plan,
    SASolver,
    SDEDPMSolverPP,
    Tau,
    UniformLambda,
    moments,
    response,
    run,
)

MEAN, VARIANCE = 0.7, 0.25


def on_test_b(method: Method, n: int) -> tuple[Plan, list[tuple[float, float]]]:
    """The plan from lambda = -2 to 2.5 and the exact (mean, variance) at both ends for data N(0.7, 0.25)."""
    t = PROCESS.time(torch.tensor([-2.0, 2.5]))
    alpha, sigma = PROCESS.alpha(t), PROCESS.sigma(t)
    laws = [
        (float(a) * MEAN, float(a) ** 2 * VARIANCE + float(s) ** 2) for a, s in zip(alpha, sigma, strict=True)
    ]
    return method.plan(PROCESS, UniformLambda(n, start=float(t[0]), end=float(t[1]))), laws


def weak_error(method: Method, n: int) -> float:
    plan, (first, last) = on_test_b(method, n)
    return abs(moments(plan, MEAN, VARIANCE, *first)[1] - last[1])


def strong_error(method: Method, n: int, tau: float) -> float:
    """Root mean square distance to the exact solution driven by the same Brownian path.

    On z = x/sigma the SDE is dz = (-tau^2 z + c e^lambda D) dlambda + sqrt(2) tau dW, and D is affine in z,
    so the exact solution is Phi x_0 + const + sigma_T INT K dW with K(u) = sqrt(2) tau e^{-tau^2 (T - u)}
    (S_T/S_u)^{c/2}, S = 1 + e^{2 lambda} v. A slot is INT e^{-tau^2 (lambda_t - u)} dW of its step,
    normalised.
    """
    plan, (first, last) = on_test_b(method, n)
    c = response(plan, MEAN, VARIANCE)
    t = torch.tensor(plan.times, dtype=torch.float64)
    lam, end = PROCESS.lam(t), float(PROCESS.sigma(t)[-1])

    def spread(u: torch.Tensor) -> torch.Tensor:
        return 1 + torch.exp(2 * u) * VARIANCE

    def kernel(u: torch.Tensor) -> torch.Tensor:
        return (
            end
            * torch.exp(-(tau**2) * (lam[-1] - u))
            * (spread(lam[-1]) / spread(u)) ** ((1 + tau**2) / 2)
            * 2**0.5
            * tau
        )

    points, weights = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(8))
    h = lam.diff()
    u = (lam[:-1, None] + lam[1:, None]) / 2 + h[:, None] / 2 * points
    own = (
        2**0.5
        * tau
        * torch.exp(-(tau**2) * (lam[1:, None] - u))
        / (-torch.expm1(-2 * tau**2 * h[:, None])).sqrt()
    )
    missed = ((c[2:, None] * own - kernel(u)) ** 2 * weights * h[:, None] / 2).sum()
    grown = kernel(lam[0]) / (2**0.5 * tau * PROCESS.sigma(t)[0])  # of the start's deviation
    bias = c[0] + c[1] * first[0] - last[0]
    return float((missed + (c[1] - grown) ** 2 * first[1] + bias**2).sqrt())


STRONG = [
    (SASolver(1, 0, tau=0.5), 0.5),
    (SASolver(1, 0), 1.0),
    (SASolver(2, 0, tau=0.5), 0.5),
    (SASolver(2, 0), 1.0),
    (SDEDPMSolverPP(2), 1.0),
    (SDEDPMSolverPP(3), 1.0),
    (SASolver(2, 3, tau=0.5), 0.5),
    (SASolver(2, 3), 1.0),
]


@pytest.mark.parametrize("method, tau", STRONG, ids=str)
def test_strong_order_is_one_whatever_the_nodes(method, tau):
    errors = [strong_error(method, n, tau) for n in (256, 512)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(
    "method, slope",
    [
        (SASolver(1, 0, tau=0.5), 1.00),
        (SASolver(1, 0), 0.99),
        (SASolver(2, 0, tau=0.5), 2.00),
        (SDEDPMSolverPP(2), 2.00),
        (SDEDPMSolverPP(3), 2.01),
        (EDMHeun(10.0), 1.995),
        (SASolver(2, 3, tau=0.5), 2.15),
        (SASolver(2, 3), 2.07),
    ],
    ids=str,
)
def test_weak_slopes_of_test_b(method, slope):
    """From 512 to 1024 steps; SASolver(2, 3) comes down to 2 slowly."""
    assert math.log2(weak_error(method, 512) / weak_error(method, 1024)) == pytest.approx(slope, abs=0.01)


@pytest.mark.slow
def test_weak_order_where_the_asymptote_is_late():
    for method in (ERSDE(), SASolver(2, 3, tau=Tau(0.7, high=math.exp(1.0))), SASolver(2, 0, tau=_falling)):
        slope = math.log2(weak_error(method, 1024) / weak_error(method, 2048))
        assert slope == pytest.approx(2.0, abs=0.25), str(method)


def _falling(lam: float) -> float:
    return 1 / (1 + math.exp(lam))


def test_noise_of_the_wrong_size_leaves_a_bias():
    """EDM's s_noise = 1.003 helps networks, not the law: the error stays where it is."""
    errors = [weak_error(EDMHeun(10.0, s_noise=1.003), n) for n in (512, 1024)]
    assert errors[1] > 0.95 * errors[0] and errors[1] == pytest.approx(1.54e-3, rel=0.02)


@pytest.mark.slow
def test_sa_p2c2_is_second_order():
    """Its asymptote is late: 1.85 at 128 steps."""
    start = torch.randn(64, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    model = MIXTURE.denoiser(PROCESS)
    truth = run(model, SASolver(4, 0, tau=0.0, starter=True).plan(PROCESS, PROCESS.time(warped(4096))), start)
    errors = [
        float(
            (run(model, SASolver(2, 2, tau=0.0).plan(PROCESS, PROCESS.time(warped(n))), start) - truth).norm()
        )
        for n in (512, 1024)
    ]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2.0, abs=0.08)
