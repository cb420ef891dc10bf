"""Coefficients of every family against the same formulas in 50-digit arithmetic, up to 1000 steps."""

from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from mpmath import mpf
from problems import PROCESS

from pullback.solvers import (
    DDPM,
    DEIS,
    Combine,
    DPMSolverPP,
    DPMSolverPPSingle,
    FlowAdams,
    Method,
    Process,
    RectifiedFlow,
    UniformLambda,
)
from pullback.solvers.methods.runge_kutta import BY_ORDER, MIDPOINT

SIZES = [10, 100, 1000]
TOLERANCE = 1e-12
# sum_i b_i (...)_i = the number, for all trees of up to four nodes (Hairer, Norsett and Wanner, table II.2.1)
BUTCHER = [
    (1, lambda a, c: c**0, 1),
    (2, lambda a, c: c, 1 / 2),
    (3, lambda a, c: c**2, 1 / 3),
    (3, lambda a, c: a @ c, 1 / 6),
    (4, lambda a, c: c**3, 1 / 4),
    (4, lambda a, c: c * (a @ c), 1 / 8),
    (4, lambda a, c: a @ c**2, 1 / 12),
    (4, lambda a, c: a @ (a @ c), 1 / 24),
]


@pytest.mark.parametrize("order, tableau", [*BY_ORDER.items(), (2, MIDPOINT)])
def test_tableaus_meet_the_conditions_of_their_order(order, tableau):
    a, b = np.zeros((len(tableau.b),) * 2), np.array(tableau.b)
    for i, row in enumerate(tableau.a):
        a[i, : len(row)] = row
    assert all(
        abs(b @ tree(a, np.array(tableau.c)) - value) < 1e-15 for o, tree, value in BUTCHER if o <= order
    )


@pytest.fixture(autouse=True)
def fifty_digits():
    with mpmath.workdps(50):
        yield


def nodes(process, plan):
    """t, alpha, sigma and lambda of the grid as exact values of the float64 numbers the compiler saw."""
    t = torch.tensor(plan.times, dtype=torch.float64)
    return [[mpf(v) for v in f.tolist()] for f in (t, process.alpha(t), process.sigma(t), process.lam(t))]


def compiled(method: Method, n: int, process: Process = PROCESS) -> tuple[Any, Any, Any]:
    grid = (
        torch.linspace(0.95, 0.05, n + 1)
        if isinstance(process, RectifiedFlow)
        else UniformLambda(n, start=1.0, end=1e-3)
    )
    plan = method.plan(process, grid)
    sums = [op for op in plan.instructions if isinstance(op, Combine) and op.out == "x"]
    return nodes(process, plan), [dict((name, c) for c, name in op.terms) for op in sums], sums


def steps(n):
    return sorted({3, 4, n // 2, n - 1})


def lagrange_integral(kernel, points, j, low, high):
    """INT_low^high kernel(u) L_j(u) du."""

    def integrand(u):
        value = kernel(u)
        for i, other in enumerate(points):
            if i != j:
                value *= (u - other) / (points[j] - other)
        return value

    return mpmath.quad(integrand, [low, high])


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("n", SIZES)
def test_dpm_solver_pp(n, order):
    (_, alpha, sigma, lam), sums, _ = compiled(DPMSolverPP(order, exact=True), n)
    for i in steps(n):
        assert abs(sums[i]["x"] - sigma[i + 1] / sigma[i]) < TOLERANCE
        points = [lam[i - j] for j in range(order)]
        for j in range(order):
            exact = alpha[i + 1] * lagrange_integral(
                lambda u, i=i: mpmath.exp(u - lam[i + 1]), points, j, lam[i], lam[i + 1]
            )
            assert abs(sums[i][f"D{i - j}"] - exact) < TOLERANCE


@pytest.mark.parametrize("n", SIZES)
def test_single_step_third_order(n):
    """2S and 3S end with w_0 D_s + w_1 (D_r - D_s)/r."""
    for order, r in ((2, mpf(1) / 2), (3, mpf(2) / 3)):
        (_, alpha, sigma, lam), sums, _ = compiled(DPMSolverPPSingle(order, exact=True), n)
        for i in steps(n):
            h = lam[i + 1] - lam[i]
            level = 1 - mpmath.exp(-h)
            slope = (1 - level / h) / r
            assert abs(sums[i]["x"] - sigma[i + 1] / sigma[i]) < TOLERANCE
            assert abs(sums[i][f"D{i}"] - alpha[i + 1] * (level - slope)) < TOLERANCE
            assert abs(sums[i][f"D{i}_{order - 1}"] - alpha[i + 1] * slope) < TOLERANCE


@pytest.mark.parametrize("n", SIZES)
def test_deis(n):
    """C_j = INT L_j(t(rho)) drho, with t(lambda) of the linear VP process in closed form."""
    low, high = mpf("0.1"), mpf("20")

    def time(u):
        span = high - low
        x = 2 * span * mpmath.log(1 + mpmath.exp(-2 * u))
        return x / ((mpmath.sqrt(low**2 + x) + low) * span)

    (t, alpha, _, lam), sums, _ = compiled(DEIS(3), n)
    for i in steps(n):
        assert abs(sums[i]["x"] - alpha[i + 1] / alpha[i]) < TOLERANCE
        for j in range(3):

            def integrand(u, i=i, j=j):
                value = -mpmath.exp(-u)
                for k in range(3):
                    if k != j:
                        value *= (time(u) - t[i - k]) / (t[i - j] - t[i - k])
                return value

            exact = alpha[i + 1] * mpmath.quad(integrand, [lam[i], lam[i + 1]])
            assert abs(sums[i][f"E{i - j}"] - exact) < TOLERANCE


@pytest.mark.parametrize("n", SIZES)
def test_flow_adams(n):
    (t, *_), sums, _ = compiled(FlowAdams(4), n, RectifiedFlow())
    for i in steps(n):
        for j in range(4):
            exact = lagrange_integral(lambda u: mpf(1), [t[i - k] for k in range(4)], j, t[i], t[i + 1])
            assert abs(sums[i][f"u{i - j}"] - exact) < TOLERANCE


@pytest.mark.parametrize("n", SIZES)
def test_ancestral(n):
    """x_t = (sigma_t/sigma_s) e^{-h} x + alpha_t (1 - e^{-2h}) D + sigma_t sqrt(1 - e^{-2h}) xi."""
    (_, alpha, sigma, lam), sums, ops = compiled(DDPM(), n)
    for i in steps(n):
        h = lam[i + 1] - lam[i]
        assert abs(sums[i]["x"] - sigma[i + 1] / sigma[i] * mpmath.exp(-h)) < TOLERANCE
        assert abs(sums[i][f"D{i}"] - alpha[i + 1] * (1 - mpmath.exp(-2 * h))) < TOLERANCE
        scale = ops[i].noise[0][0]
        assert isinstance(scale, float)
        assert abs(scale - sigma[i + 1] * mpmath.sqrt(1 - mpmath.exp(-2 * h))) < TOLERANCE
