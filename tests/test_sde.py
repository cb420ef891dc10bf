"""SA-Solver, UniPC, SDE-DPM-Solver, churn, Restart and ER-SDE: coefficients, equivalences, weak and strong order."""

from typing import Any

import mpmath
import pytest
import torch
from mpmath import mpf
from problems import PROCESS, warped
from pullback.solvers import (
    DDIM,
    DDPM,
    BVariant,
    Combine,
    DPMSolverPP,
    Evaluation,
    Method,
    Plan,
    SASolver,
    Tau,
    UniformLambda,
    UniPC,
    expand,
)

GRID = PROCESS.time(warped(12))
SIZES = [10, 100, 1000]
TOLERANCE = 1e-12


def same(left: Method, right: Method, grid: torch.Tensor = GRID) -> bool:
    a, b = (expand(m.plan(PROCESS, grid)) for m in (left, right))
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-12, atol=1e-12)


def sums(plan: Plan, name: str) -> Combine:
    (op,) = [op for op in plan.instructions if isinstance(op, Combine) and op.out == name]
    return op


def terms(op: Combine) -> dict[str, Any]:
    return {name: c for c, name in op.terms}


def noise(op: Combine) -> Any:
    """The coefficient of the one slot, 0 without."""
    return op.noise[0][0] if op.noise else 0.0


def exact_nodes(plan: Plan) -> Any:
    """alpha, sigma and lambda of the grid as exact values of the float64 numbers the compiler saw."""
    t = torch.tensor(plan.times, dtype=torch.float64)
    return [[mpf(v) for v in f.tolist()] for f in (PROCESS.alpha(t), PROCESS.sigma(t), PROCESS.lam(t))]


def lagrange_integral(kernel, clock, points, j, low, high) -> Any:
    """INT_low^high kernel(u) L_j(clock(u)) du."""

    def integrand(u):
        value = kernel(u)
        for i, other in enumerate(points):
            if i != j:
                value *= (clock(u) - other) / (points[j] - other)
        return value

    return mpmath.quad(integrand, [low, high])


@pytest.mark.parametrize("tau", [0.0, 0.7])
@pytest.mark.parametrize("n", SIZES)
def test_sa_solver_weights_against_fifty_digits(n, tau):
    """b_j = alpha_t INT c e^{-c(lambda_t - u)} L_j(u) du; the corrector is written as its difference from the predictor."""
    plan = SASolver(3, 4, tau=tau).plan(PROCESS, UniformLambda(n, start=1.0, end=1e-3))
    with mpmath.workdps(50):
        alpha, sigma, lam = exact_nodes(plan)
        square = mpf(tau) ** 2
        c = 1 + square
        corrected = [op for op in plan.instructions if isinstance(op, Combine) and op.out == "x"]
        for i in sorted({2, 3, n // 2, n - 2}):
            h = lam[i + 1] - lam[i]

            def weights(points, i=i):
                def kernel(u):
                    return alpha[i + 1] * c * mpmath.exp(-c * (lam[i + 1] - u))

                return [lagrange_integral(kernel, lambda u: u, points, j, lam[i], lam[i + 1]) for j in range(len(points))]

            predict, correct = weights(lam[i - 2 : i + 1][::-1]), weights(lam[i - 2 : i + 2][::-1])
            op = sums(plan, f"p{i + 1}")
            got = terms(op)
            assert abs(got["x"] - sigma[i + 1] / sigma[i] * mpmath.exp(-square * h)) < TOLERANCE
            assert all(abs(got[f"D{i - j}"] - w) < TOLERANCE for j, w in enumerate(predict))
            assert abs(noise(op) - sigma[i + 1] * mpmath.sqrt(1 - mpmath.exp(-2 * square * h))) < TOLERANCE
            got = terms(corrected[i])
            assert got.pop(f"p{i + 1}") == 1.0 and not corrected[i].noise
            for j, (w, p) in enumerate(zip(correct, [0, *predict], strict=True)):
                assert abs(got[f"D{i + 1 - j}"] - (w - p)) < TOLERANCE


@pytest.mark.parametrize("left, right", [
    (SASolver(1, 0, tau=0.0), DDIM()),
    (SASolver(1, 0, tau=1.0), DDPM()),
    (SASolver(2, 0, tau=0.0), DPMSolverPP(2, exact=True)),
    (SASolver(3, 0, tau=0.0), DPMSolverPP(3, exact=True)),
    (UniPC(1, corrector=False), DDIM()),
    (UniPC(2, corrector=False), DPMSolverPP(2)),
    (UniPC(3, BVariant.BH1, corrector=False, starter=True), DPMSolverPP(3, starter=True)),
    (UniPC(3, BVariant.BH2, corrector=False, starter=True), DPMSolverPP(3, starter=True)),
    (UniPC(3, BVariant.BH1, starter=True), UniPC(3, BVariant.BH2, starter=True)),
    (UniPC(3, BVariant.BH2, starter=True), SASolver(3, 4, tau=0.0, starter=True)),
], ids=str)
def test_one_method_under_two_names(left, right):
    assert same(left, right)


def test_the_short_cuts_of_unipc_2_do_depend_on_b():
    assert not same(UniPC(2, BVariant.BH1), UniPC(2, BVariant.BH2))


@pytest.mark.parametrize("tau", [0.0, 1.0])
@pytest.mark.parametrize("evaluation, nfe", [(Evaluation.PEC, 12), (Evaluation.PECE, 24)], ids=str)
def test_corrector_costs(evaluation, nfe, tau):
    plan = SASolver(3, 4, tau=tau, evaluation=evaluation).plan(PROCESS, GRID)
    assert plan.nfe == nfe and plan.slots == (12 if tau else 0)
    assert UniPC(3).plan(PROCESS, GRID).nfe == 12


def test_tau_may_depend_on_lambda():
    """A constant function is the constant; inside its band, and in the part of a step inside it, tau holds."""
    assert same(SASolver(2, 3, tau=Tau(0.6)), SASolver(2, 3, tau=0.6))
    band = Tau(0.8, low=0.5, high=2.0)
    assert (band(0.0), band(-1.0), band(1.0)) == (0.8, 0.0, 0.0)
    plan = SASolver(2, 0, tau=band).plan(PROCESS, PROCESS.time(torch.tensor([-2.0, -1.0, -0.5, 0.25, 1.0, 2.0])))
    inside = [0.0, 0.6931471805599453 - 0.5, 0.75, 0.6931471805599453 - 0.25, 0.0]
    drawn = [noise(op) for op in plan.instructions if isinstance(op, Combine)]
    sigma = PROCESS.sigma(torch.tensor(plan.times, dtype=torch.float64))[1:]
    wanted = sigma * (-torch.expm1(-2 * 0.64 * torch.tensor(inside))).sqrt()
    assert torch.allclose(torch.tensor(drawn), wanted, atol=1e-14)


@pytest.mark.parametrize("bad, match", [
    (lambda: SASolver(5), "predictor=5, expected 1 to 4"),
    (lambda: SASolver(2, 5), "corrector=5, expected 0"),
    (lambda: SASolver(tau=-0.1), "tau=-0.1, expected"),
    (lambda: SASolver(2, 0, evaluation=Evaluation.PECE), "PECE without a corrector"),
    (lambda: SASolver(tau=0.5, starter=True), "starter=True with noise"),
    (lambda: Tau(0.5, 2.0, 1.0), "low=2.0, high=1.0, expected"),
    (lambda: UniPC(4), "predictor=4, expected 1, 2 or 3"),
    (lambda: SASolver().plan(PROCESS, [0.1, 0.2]), "rising grid"),
])
def test_bad_arguments(bad, match):
    with pytest.raises(ValueError, match=match):
        bad()


@pytest.mark.parametrize("method, field, value", [(SASolver(), "evaluation", "PECE"), (UniPC(), "variant", "bh1")])
def test_strings_do_not_pass_for_options(method, field, value):
    """Checked by the library itself: outside this suite no one checks types at run time."""
    object.__setattr__(method, field, value)
    with pytest.raises(ValueError, match=f"{field}='{value}', expected a"):
        method.__post_init__()
