"""DPM-Solver in noise form, Adams and Runge-Kutta in rho, PNDM, GHVB, UniPC: against loops from the papers' own
equations, fifty digits, and each other.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import mpmath
import pytest
import torch
from mpmath import mpf
from papers import GRID, START, dpm_solver, eps, heavy_ball, pndm, unipc
from problems import MIXTURE, PROCESS, warped
from torch import Tensor

from pullback.solvers import (
    DDIM,
    DEIS,
    DOPRI5,
    EDM,
    GHVB,
    HEUN,
    IPNDM,
    KDPM2,
    KUTTA3,
    LMS,
    MIDPOINT,
    NOISE,
    PLMS,
    PNDM,
    Combine,
    DPMSolver,
    DPMSolverFast,
    DPMSolverPP,
    DPMSolverPPFast,
    DPMSolverPPSingle,
    DPMSolverSingle,
    EDMHeun,
    Evaluate,
    FlowAdams,
    GivenTimes,
    Karras,
    Method,
    Process,
    RectifiedFlow,
    RhoRK,
    Rising,
    Tableau,
    UniformLambda,
    UniformT,
    UniPC,
    expand,
    run,
)
from pullback.solvers.methods.unipc import BVariant


def sampled(method: Method, process: Process = PROCESS, grid: Any = GRID) -> Tensor:
    return run(MIXTURE.denoiser(process), method.plan(process, grid), START)


def same(left: Method, right: Method, process: Process = PROCESS, grid: Any = GRID) -> bool:
    a, b = (expand(m.plan(process, grid)) for m in (left, right))
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-12, atol=1e-12)


# loops from the papers
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method, order, r1",
    [(DPMSolverSingle(2), 2, None), (DPMSolverSingle(2, r1=0.7), 2, 0.7), (DPMSolverSingle(3), 3, None)]
    + [(DPMSolverSingle(3, r1=0.5), 3, 0.5), (KDPM2(), 2, None)],
    ids=str,
)
def test_single_steps_are_the_papers_algorithms(method, order, r1):
    assert torch.allclose(sampled(method), dpm_solver([order] * 8, GRID, r1), atol=1e-12)


def test_the_third_order_needs_its_second_stage_at_two_thirds():
    for r2, order in ((2 / 3, 3), (1.0, 2)):
        found = [dpm_solver([3] * n, smooth(n), r1=0.5, r2=r2) for n in (32, 64)]
        errors = [float((x - truth(PROCESS, smooth)).norm()) for x in found]
        assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize("calls", [5, 12, 13, 14, 15])
def test_fast_splits_its_calls_as_the_paper_does(calls):
    """Section 3.4: steps of order 3, and a tail that uses up the calls."""
    whole, rest = divmod(calls, 3)
    orders = [3] * (whole - 1) + [2, 1] if rest == 0 else [3] * whole + [rest]
    grid = PROCESS.time(warped(len(orders)))
    assert len(orders) == calls // 3 + 1 and sum(orders) == calls
    for method in (DPMSolverFast(rest), DPMSolverPPFast(rest)):
        assert method.plan(PROCESS, grid).nfe == calls
    assert torch.allclose(sampled(DPMSolverFast(rest), grid=grid), dpm_solver(orders, grid), atol=1e-12)
    x = START
    for i, order in enumerate(orders):
        single: Method = DDIM() if order == 1 else DPMSolverPPSingle(order)
        x = run(MIXTURE.denoiser(PROCESS), single.plan(PROCESS, grid[i : i + 2]), x)
    assert torch.allclose(sampled(DPMSolverPPFast(rest), grid=grid), x, atol=1e-12)


@pytest.mark.parametrize(
    "method, start, nodes, nfe",
    [(PNDM(), "kutta", 4, 17), (PLMS(), "heun", 4, 9), (PLMS(2), "heun", 2, 9), (IPNDM(), "", 4, 8)]
    + [(IPNDM(3), "", 3, 8)],
    ids=str,
)
def test_pseudo_linear_multistep_methods_are_the_papers(method, start, nodes, nfe):
    assert torch.allclose(sampled(method), pndm(GRID, start, nodes), atol=1e-12)
    assert method.plan(PROCESS, GRID).nfe == nfe


EQUAL = UniformT(24, start=0.8, end=0.1)


@pytest.mark.parametrize("r", [0.6, 1.8, 2.5, 3.8, 4.0])
def test_ghvb_is_the_published_recursion_at_equal_steps(r):
    """From the same first states; with the average begun as ours is."""
    rho = EQUAL.times(EDM()).tolist()
    opening = [START] + [sampled(GHVB(r), EDM(), GivenTimes(rho[: i + 1])) for i in range(1, math.ceil(r))]
    assert torch.allclose(sampled(GHVB(r), EDM(), EQUAL), heavy_ball(rho, r, opening, True), atol=1e-11)


def test_the_published_start_of_ghvb_holds_it_at_second_order():
    """From exact first states: v_0 = E_0 leaves an error of h^2, which ours does not."""
    found = []
    for own_start in (False, True):
        errors = []
        for n in (64, 128):
            rho = UniformT(n, start=0.8, end=0.1).times(EDM()).tolist()
            fine = [GivenTimes(torch.linspace(0.8, rho[i], 8 * i + 1)) for i in range(1, 4)]
            opening = [START, *(sampled(RhoRK(DOPRI5), EDM(), grid) for grid in fine)]
            errors.append(float((heavy_ball(rho, 3.5, opening, own_start) - truth(EDM(), equal)).norm()))
        found.append(math.log2(errors[0] / errors[1]))
    assert found == pytest.approx([2.0, 4.0], abs=0.25)


@pytest.mark.parametrize("variant", BVariant)
@pytest.mark.parametrize("p", [1, 2, 3, 5])
def test_unipc_is_the_papers_algorithm(p, variant):
    assert torch.allclose(sampled(UniPC(p, variant, cap=math.inf)), unipc(p, variant, GRID), atol=1e-11)


# fifty digits
# ---------------------------------------------------------------------------------------------


def lagrange(kernel, points: list[Any], j: int, low: Any, high: Any) -> Any:
    """INT_low^high kernel(u) L_j(u) du, by quadrature."""

    def integrand(u):
        return kernel(u) * mpmath.fprod((u - q) / (points[j] - q) for k, q in enumerate(points) if k != j)

    return mpmath.quad(integrand, [low, high])


def steps_of(method: Method, n: int, out: str = "x"):
    """(i, terms by name, exact t, alpha, sigma, lambda) of some steps of a plan; `out` may hold {} for i + 1."""
    plan = method.plan(PROCESS, UniformLambda(n, start=1.0, end=1e-3))
    t = torch.tensor(plan.times, dtype=torch.float64)
    exact = [[mpf(v) for v in f.tolist()] for f in (t, PROCESS.alpha(t), PROCESS.sigma(t), PROCESS.lam(t))]
    for i in sorted({5, n // 2, n - 2}):
        sums = [op for op in plan.step(i) if isinstance(op, Combine) and op.out == out.format(i + 1)]
        yield i, {name: c for c, name in sums[-1].terms}, exact


@pytest.mark.parametrize("n", [10, 1000])
def test_coefficients_against_fifty_digits(n):
    with mpmath.workdps(50):
        for order in (2, 3):
            for i, got, (_, alpha, sigma, lam) in steps_of(DPMSolver(order, exact=True), n):
                points = [lam[i - j] for j in range(order)]
                assert abs(got["x"] - alpha[i + 1] / alpha[i]) < 1e-12
                for j in range(order):

                    def kernel(u, end=lam[i + 1], sigma=sigma[i + 1]):
                        return -sigma * mpmath.exp(end - u)

                    assert abs(got[f"E{i - j}"] - lagrange(kernel, points, j, lam[i], lam[i + 1])) < 1e-12
        for i, got, (_, _, sigma, lam) in steps_of(DPMSolver(2), n):
            slope = -sigma[i + 1] * mpmath.expm1(lam[i + 1] - lam[i]) / 2 * (lam[i + 1] - lam[i])
            assert abs(got[f"E{i - 1}"] + slope / (lam[i] - lam[i - 1])) < 1e-12
        for i, got, (_, _, sigma, lam) in steps_of(DPMSolverSingle(3), n):
            h = lam[i + 1] - lam[i]
            slope = (mpmath.expm1(h) / h - 1) * 3 / 2
            assert abs(got[f"E{i}_2"] + sigma[i + 1] * slope) < 1e-12
            assert abs(got[f"E{i}"] + sigma[i + 1] * (mpmath.expm1(h) - slope)) < 1e-12
        for method in (LMS(4), GHVB(4.0)):
            for i, got, (_, alpha, sigma, _) in steps_of(method, n):
                rho = [s / a for s, a in zip(sigma, alpha, strict=True)]
                points = [rho[i - j] for j in range(4)]
                exact = [
                    alpha[i + 1] * lagrange(lambda u: 1, points, j, rho[i], rho[i + 1]) for j in range(4)
                ]
                if isinstance(
                    method, GHVB
                ):  # the highest difference as a register: its integral, and what is left
                    gain = got[f"d{i}"]
                    divided = [mpmath.fprod(1 / (p - q) for q in points if q != p) for p in points]
                    assert abs(gain / (exact[3] / divided[3]) - 1) < 1e-9
                    exact = [w - exact[3] / divided[3] * d for w, d in zip(exact, divided, strict=True)][:3]
                for j, w in enumerate(exact):
                    assert abs(got[f"E{i - j}"] - w) < 1e-12 * max(1, abs(w))
        for i, got, (_, alpha, sigma, _) in steps_of(IPNDM(), n):
            width = alpha[i + 1] * (sigma[i + 1] / alpha[i + 1] - sigma[i] / alpha[i])
            for j, w in enumerate((55, -59, 37, -9)):
                assert abs(got[f"E{i - j}"] - width * w / 24) < 1e-12


@pytest.mark.parametrize("n", [10, 100])
def test_unipc_of_five_nodes_against_fifty_digits(n):
    with mpmath.workdps(50):
        for i, got, (_, alpha, _, lam) in steps_of(UniPC(5, cap=math.inf), n, "p{}"):
            points = [lam[i - j] for j in range(5)]
            for j in range(5):
                kernel = lambda u, i=i, lam=lam, alpha=alpha: alpha[i + 1] * mpmath.exp(u - lam[i + 1])  # noqa: E731
                assert abs(got[f"D{i - j}"] - lagrange(kernel, points, j, lam[i], lam[i + 1])) < 1e-11
        for i, got, (_, alpha, _, lam) in steps_of(UniPC(5, cap=math.inf), n):
            points = [lam[i + 1 - j] for j in range(6)]
            kernel = lambda u, i=i, lam=lam, alpha=alpha: alpha[i + 1] * mpmath.exp(u - lam[i + 1])  # noqa: E731
            assert abs(got[f"D{i + 1}"] - lagrange(kernel, points, 0, lam[i], lam[i + 1])) < 1e-11


# one method under several names
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "left, right",
    [
        (first, DDIM())
        for first in (DPMSolver(1), LMS(1), IPNDM(1), PLMS(1), GHVB(1.0), UniPC(1, corrector=False))
    ]
    + [(KDPM2(), DPMSolverSingle(2)), (RhoRK(HEUN), EDMHeun()), (RhoRK(), EDMHeun())]
    + [(LMS(k, starter=s), GHVB(float(k), starter=s)) for k, s in ((2, False), (4, True))]
    + [(UniPC(2, BVariant.EXACT, corrector=False), DPMSolverPP(2, exact=True))]
    + [(UniPC(3, BVariant.EXACT, starter=True), UniPC(3, starter=True))],
    ids=str,
)
def test_one_method_under_two_names(left, right):
    assert same(left, right)


def test_lms_is_adams_in_rho_and_in_equal_steps_the_fixed_weights():
    """On EDM's process rho is the model time: DEIS' tAB, LMS and the flow's Adams are one; dx/drho = E there."""
    karras = Karras(6, end=0.02)
    assert same(LMS(4), DEIS(4), EDM(), karras) and same(LMS(3), FlowAdams(3), EDM(), karras)
    assert same(IPNDM(), LMS(4), EDM(), EQUAL) and not same(IPNDM(), LMS(4), EDM(), karras)
    (*_, last), first = LMS(2).plan(EDM(), karras).instructions, LMS(2).plan(EDM(), karras).times
    h, h1 = first[-1] - first[-2], first[-2] - first[-3]  # type: ignore[operator]
    assert isinstance(last, Combine)  # iPNDM with variable steps, as it prints its two nodes
    assert [c for c, _ in last.terms[1:]] == pytest.approx([h * (2 + h / h1) / 2, -h * h / h1 / 2], rel=1e-12)


def test_the_noise_form_is_the_data_form_with_alpha_and_sigma_exchanged():
    """Every coefficient, on the grid run backwards through the mirrored pair."""
    for noise, data in (
        (DPMSolver(3, exact=True, starter=True), DPMSolverPP(3, exact=True, starter=True)),
        (DPMSolver(2), DPMSolverPP(2)),
        (DPMSolverSingle(2, exact=True), DPMSolverPPSingle(2, exact=True)),
    ):
        mirrored = noise.plan(RectifiedFlow(), Rising([0.1, 0.25, 0.4, 0.6]))
        plan = data.plan(RectifiedFlow(), [0.9, 0.75, 0.6, 0.4])
        for ours, theirs in zip(mirrored.instructions, plan.instructions, strict=True):
            if isinstance(ours, Combine) and isinstance(theirs, Combine):
                assert [c for c, _ in ours.terms] == pytest.approx([c for c, _ in theirs.terms], abs=1e-12)
            if isinstance(ours, Evaluate) and isinstance(theirs, Evaluate):
                assert ours.want == NOISE and ours.t == pytest.approx(1 - theirs.t)  # type: ignore[operator]


def test_ghvb_runs_from_one_adams_method_to_the_next():
    """As beta falls the highest difference is forgotten; at few steps the error follows."""
    found = []
    for r in (1.0, 1.3, 1.6, 2.0):
        found.append(float((sampled(GHVB(r), grid=smooth(24)) - truth(PROCESS, smooth)).norm()))
    assert found == sorted(found, reverse=True)
    assert torch.allclose(sampled(GHVB(1 + 1e-9)), _after_one_lms_2(GRID), atol=1e-7)


def _after_one_lms_2(grid: Tensor) -> Tensor:
    """The difference at beta = 0 is the first one for ever: steps of DDIM and that constant slope."""
    E, x, rho = eps(PROCESS), START, [math.exp(-v) for v in PROCESS.lam(grid).tolist()]
    alpha, t, slope = PROCESS.alpha(grid).tolist(), grid.tolist(), None
    past = None
    for i in range(len(t) - 1):
        e, h = E(x, t[i]), rho[i + 1] - rho[i]
        if past is not None and slope is None:
            slope = (e - past) / (rho[i] - rho[i - 1])
        bend = 0 if slope is None else h * h / 2 * slope
        x, past = alpha[i + 1] * (x / alpha[i] + h * e + bend), e
    return x


# orders that a grid decides
# ---------------------------------------------------------------------------------------------


def smooth(n: int) -> Tensor:
    return PROCESS.time(warped(n))


def karras(n: int) -> Karras:
    return Karras(n, start=0.8, end=0.1)


def equal(n: int) -> UniformT:
    return UniformT(n, start=0.8, end=0.1)


@functools.cache
def truth(process: Process, grid: Callable) -> Tensor:
    return sampled(RhoRK(DOPRI5), process, grid(400))


def slope_of(method: Method, n: int, process: Process = PROCESS, grid: Callable = smooth) -> float:
    errors = [float((sampled(method, process, grid(m)) - truth(process, grid)).norm()) for m in (n, 2 * n)]
    return math.log2(errors[0] / errors[1])


@pytest.mark.parametrize(
    "method, order, n",
    [
        (RhoRK(MIDPOINT), 2, 48),
        (RhoRK(KUTTA3), 3, 48),
        (RhoRK(DOPRI5), 5, 48),
        (UniPC(5, starter=True), 6, 128),
    ]
    + [(GHVB(0.5), 1, 96), (GHVB(1.3), 2, 96), (GHVB(2.5, starter=True), 3, 96), (DPMSolverFast(2), 3, 48)],
    ids=str,
)
def test_more_orders(method, order, n):
    assert method.order == order and slope_of(method, n) == pytest.approx(order, abs=0.3)


@pytest.mark.parametrize(
    "method, grid, order",
    [(IPNDM(), karras, 2), (PLMS(), karras, 2), (PNDM(), karras, 2), (LMS(4, starter=True), karras, 4)]
    + [(IPNDM(), equal, 2), (PLMS(), equal, 3), (PNDM(), equal, 4), (LMS(4, starter=True), equal, 4)],
    ids=lambda v: getattr(v, "__name__", str(v)),
)
def test_fixed_weights_are_of_second_order_but_at_equal_steps(method, grid, order):
    """There the first step decides: Euler's leaves h^2, Heun's h^3, Runge-Kutta's the method's own order."""
    assert slope_of(method, 96, EDM(), grid) == pytest.approx(order, abs=0.2)


# refusals, and a tableau of one's own
# ---------------------------------------------------------------------------------------------


def test_a_tableau_of_ones_own():
    ralston = Tableau("RALSTON", ((), (2 / 3,)), (1 / 4, 3 / 4), 2)
    assert str(RhoRK(ralston)) == "RhoRK(tableau=RALSTON)" and RhoRK(ralston).order == 2
    assert slope_of(RhoRK(ralston), 48) == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize(
    "bad, match",
    [
        (lambda: DPMSolver(4), "DPMSolver: got order=4, expected 1, 2 or 3"),
        (lambda: DPMSolverSingle(1), r"DPMSolverSingle: got order=1, expected 2 or 3; order 1 is DDIM\(\)"),
        (lambda: DPMSolverSingle(2, r1=0.0), "r1: got 0.0, expected a number in"),
        (lambda: DPMSolverFast(3), "remainder: got 3, expected 0, 1 or 2"),
        (lambda: LMS(5), "order: got 5, expected a whole number from 1 to 4"),
        (lambda: IPNDM(0), "nodes: got 0, expected a whole number from 1 to 4"),
        (lambda: GHVB(4.5), "r: got 4.5, expected a number in"),
        (lambda: GHVB(0.0), "r: got 0.0, expected a number in"),
        (lambda: Tableau("none", (), (), 1), r"Tableau: got rows of \(\)"),
        (lambda: Tableau("implicit", ((0.5,),), (1.0,), 2), r"rows of \(1,\).*write an explicit method"),
        (lambda: Tableau("light", ((), (0.5,)), (0.0, 0.5), 2), "expected .* with sum 1"),
    ],
)
def test_bad_arguments(bad, match):
    with pytest.raises(ValueError, match=match):
        bad()
