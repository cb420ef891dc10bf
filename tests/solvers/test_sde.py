"""SA-Solver, UniPC, SDE-DPM-Solver, churn, Restart and ER-SDE: coefficients, equivalences, structure."""

import math
import pickle
from dataclasses import dataclass
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from mpmath import mpf
from problems import MIXTURE, PROCESS, warped

from pullback.solvers import (
    DDIM,
    DDPM,
    EDM,
    ERSDE,
    Combine,
    CorrectorMode,
    DPMSolverPP,
    EDMHeun,
    EulerMaruyama,
    Evaluate,
    GivenNoise,
    Method,
    Plan,
    RectifiedFlow,
    Restart,
    SASolver,
    SDEDPMSolver,
    SDEDPMSolverPP,
    Tau,
    UniformLambda,
    UniformT,
    UniPC,
    expand,
    run,
)
from pullback.solvers.methods.unipc import BVariant

GRID = PROCESS.time(warped(12))
SIZES = [10, 100, 1000]
TOLERANCE = 1e-12


@dataclass(frozen=True)
class Square:
    """A phi that pickles and prints the same in every process."""

    def __call__(self, rho: np.ndarray) -> np.ndarray:
        return rho**2


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
    """b_j = alpha_t INT c e^{-c(lambda_t - u)} L_j(u) du; the corrector is written as its difference from the
    predictor.
    """
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

                return [
                    lagrange_integral(kernel, lambda u: u, points, j, lam[i], lam[i + 1])
                    for j in range(len(points))
                ]

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


@pytest.mark.parametrize(
    "left, right",
    [
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
    ],
    ids=str,
)
def test_one_method_under_two_names(left, right):
    assert same(left, right)


def test_the_short_cuts_of_unipc_2_do_depend_on_b():
    assert not same(UniPC(2, BVariant.BH1), UniPC(2, BVariant.BH2))


@pytest.mark.parametrize("tau", [0.0, 1.0])
@pytest.mark.parametrize("evaluation, nfe", [(CorrectorMode.PEC, 12), (CorrectorMode.PECE, 24)], ids=str)
def test_corrector_costs(evaluation, nfe, tau):
    plan = SASolver(3, 4, tau=tau, evaluation=evaluation).plan(PROCESS, GRID)
    assert plan.nfe == nfe and plan.slots == (12 if tau else 0)
    assert UniPC(3).plan(PROCESS, GRID).nfe == 12


@pytest.mark.parametrize(
    "method, order",
    [
        (SASolver(1, 0), 1),
        (SASolver(3, 0), 2),
        (SASolver(3, 4), 2),
        (SASolver(3, 0, tau=0.0), 3),
        (SASolver(3, 4, tau=0.0), 4),
        (SASolver(3, 2, tau=0.0), 2),
        (SASolver(1, 4, tau=0.0), 2),
    ],
    ids=str,
)
def test_noise_holds_the_order_of_sa_solver_at_two(method, order):
    """p nodes predict to order p, c nodes correct them to min(p + 1, c); with noise the weak order is 2 at most."""
    assert method.order == order


def test_tau_may_depend_on_lambda():
    """A constant function is the constant; inside its band, and in the part of a step inside it, tau holds."""
    assert same(SASolver(2, 3, tau=Tau(0.6)), SASolver(2, 3, tau=0.6))
    band = Tau(0.8, low=0.5, high=2.0)
    assert (band(0.0), band(-1.0), band(1.0)) == (0.8, 0.0, 0.0)
    plan = SASolver(2, 0, tau=band).plan(
        PROCESS, PROCESS.time(torch.tensor([-2.0, -1.0, -0.5, 0.25, 1.0, 2.0]))
    )
    inside = [0.0, 0.6931471805599453 - 0.5, 0.75, 0.6931471805599453 - 0.25, 0.0]
    drawn = [noise(op) for op in plan.instructions if isinstance(op, Combine)]
    sigma = PROCESS.sigma(torch.tensor(plan.times, dtype=torch.float64))[1:]
    wanted = sigma * (-torch.expm1(-2 * 0.64 * torch.tensor(inside))).sqrt()
    assert torch.allclose(torch.tensor(drawn), wanted, atol=1e-14)


@pytest.mark.parametrize(
    "bad, match",
    [
        (lambda: SASolver(5), "predictor=5, expected 1 to 4"),
        (lambda: SASolver(2, 5), "corrector=5, expected 0"),
        (lambda: SASolver(tau=-0.1), "tau=-0.1, expected"),
        (lambda: SASolver(2, 0, evaluation=CorrectorMode.PECE), "PECE without a corrector"),
        (lambda: SASolver(tau=0.5, starter=True), "starter=True with noise"),
        (lambda: Tau(0.5, 2.0, 1.0), "low=2.0, high=1.0, expected"),
        (lambda: UniPC(6), "predictor=6, expected 1 to 5"),
        (lambda: SDEDPMSolverPP(4), "nodes=4, expected 1, 2 or 3"),
        (lambda: EDMHeun(-1.0), "churn=-1.0, expected"),
        (lambda: EDMHeun(1.0, s_min=2.0, s_max=1.0), "s_min=2.0, s_max=1.0, expected"),
        (lambda: EDMHeun(1.0, s_noise=-1.0), "s_noise=-1.0, expected"),
        (lambda: ERSDE(4), "nodes=4, expected 1, 2 or 3"),
        (lambda: ERSDE(phi=0.5), "phi=0.5, expected"),
        (lambda: ERSDE(phi=np.sqrt).plan(PROCESS, GRID), "expected phi/rho to rise"),
        (lambda: ERSDE(starter=True), "starter=True with noise"),
        (lambda: Restart(EDMHeun(), low=2.0, high=1.0), "low=2.0, high=1.0, expected"),
        (lambda: Restart(EDMHeun(), low=0.0), "low=0.0, high=1.0, expected 0 < low"),
        (lambda: Restart(EDMHeun(), low=-0.5), "low=-0.5, high=1.0, expected 0 < low"),
        (lambda: Restart(EDMHeun(), high=math.inf), "high=inf, expected 0 < low"),
        (lambda: Restart(EDMHeun(), times=0), "times=0, expected"),
        (lambda: Restart(EDMHeun(), steps=0), "steps=0, expected"),
        (lambda: Restart(EDMHeun(), s_noise=-1.0), "s_noise=-1.0, expected"),
        (lambda: Restart(DDPM()), "got the stochastic DDPM"),
        (lambda: Restart(DPMSolverPP(2)).plan(PROCESS, GRID), "DPMSolverPP.*reads D"),
        (lambda: Restart(EDMHeun(), high=100.0).plan(EDM(), [80.0, 0.1]), "high=100.0, expected at most 80"),
        (lambda: SASolver().plan(PROCESS, [0.1, 0.2]), "rising grid"),
    ],
)
def test_bad_arguments(bad, match):
    with pytest.raises(ValueError, match=match):
        bad()


@pytest.mark.parametrize(
    "method, field, value", [(SASolver(), "evaluation", "PECE"), (UniPC(), "variant", "bh1")]
)
def test_strings_do_not_pass_for_options(method, field, value):
    """Checked by the library itself: outside this suite no one checks types at run time."""
    object.__setattr__(method, field, value)
    with pytest.raises(ValueError, match=f"{field}='{value}', expected a"):
        method.__post_init__()


@pytest.mark.parametrize(
    "left, right",
    [
        (SDEDPMSolverPP(1), DDPM()),
        (SDEDPMSolverPP(2, exact=True), SASolver(2, 0, tau=1.0)),
        (SDEDPMSolverPP(3), SASolver(3, 0, tau=1.0)),
    ],
    ids=str,
)
def test_sde_dpm_solver_pp_is_sa_with_tau_one(left, right):
    assert same(left, right)


@pytest.mark.parametrize("n", SIZES)
def test_sde_dpm_solvers_against_fifty_digits(n):
    """2M: d_1 = (D_0 - D_{-1})/r_0 with weight w_0(2h)/2; first order in noise prediction; Euler in t."""
    grid = UniformLambda(n, start=1.0, end=1e-3)
    data, noisy, euler = (m.plan(PROCESS, grid) for m in (SDEDPMSolverPP(2), SDEDPMSolver(), EulerMaruyama()))
    low, high = mpf("0.1"), mpf("20")
    with mpmath.workdps(50):
        alpha, sigma, lam = exact_nodes(data)
        for i in sorted({1, 2, n // 2, n - 1}):
            h = lam[i + 1] - lam[i]
            ops = [[op for op in p.instructions if isinstance(op, Combine)][i] for p in (data, noisy, euler)]
            level = 1 - mpmath.exp(-2 * h)
            slope = alpha[i + 1] * level / 2 / ((lam[i] - lam[i - 1]) / h)
            got = terms(ops[0])
            assert abs(got["x"] - sigma[i + 1] / sigma[i] * mpmath.exp(-h)) < TOLERANCE
            assert abs(got[f"D{i}"] - (alpha[i + 1] * level + slope)) < TOLERANCE
            assert abs(got[f"D{i - 1}"] + slope) < TOLERANCE
            assert abs(noise(ops[0]) - sigma[i + 1] * mpmath.sqrt(level)) < TOLERANCE
            got = terms(ops[1])
            assert abs(got["x"] - alpha[i + 1] / alpha[i]) < TOLERANCE
            assert abs(got[f"E{i}"] + 2 * sigma[i + 1] * (mpmath.exp(h) - 1)) < TOLERANCE
            assert abs(noise(ops[1]) - sigma[i + 1] * mpmath.sqrt(mpmath.exp(2 * h) - 1)) < TOLERANCE
            got = terms(ops[2])
            beta = low + mpf(data.times[i]) * (high - low)  # dx = -beta/2 x dt + sqrt(beta) dw
            step = mpf(data.times[i]) - mpf(data.times[i + 1])
            assert abs(got["x"] - (1 + beta / 2 * step)) < TOLERANCE
            assert abs(got[f"E{i}"] + beta / sigma[i] * step) < TOLERANCE
            assert abs(noise(ops[2]) - mpmath.sqrt(beta * step)) < TOLERANCE


def heun_with_churn(n: int, rhos: list[float], churn: float, s_noise: float) -> torch.Tensor:
    """EDM algorithm 2 as written, on alpha = 1: rows as `expand` gives them, [t | x, D_0, D_1, ..., xi_0, ...]."""
    calls, unit = 2 * n, torch.eye(1 + 2 * n + n, dtype=torch.float64)
    x, rows = unit[0], []

    def slope(state: torch.Tensor, rho: float) -> torch.Tensor:
        rows.append(torch.cat([torch.tensor([rho]), state]))
        return (state - unit[len(rows)]) / rho

    for i in range(n):
        gamma = min(churn / n, 2**0.5 - 1)
        hat = (1 + gamma) * rhos[i]
        x = x + s_noise * (hat**2 - rhos[i] ** 2) ** 0.5 * unit[1 + calls + i]
        d = slope(x, hat)
        ahead = x + (rhos[i + 1] - hat) * d
        x = x + (rhos[i + 1] - hat) * (d + slope(ahead, rhos[i + 1])) / 2
    return torch.stack([*rows, torch.cat([torch.tensor([rhos[-1]]), x])])


@pytest.mark.parametrize("churn", [0.5, 10.0])
def test_churn_is_edm_algorithm_2(churn):
    """The network is called at the noised point: the rows show where."""
    process, rhos = EDM(), [5.0, 2.5, 1.2, 0.6, 0.2]
    got = expand(EDMHeun(churn, s_noise=1.003).plan(process, rhos))
    assert torch.allclose(got, heun_with_churn(4, rhos, churn, 1.003), rtol=1e-12, atol=1e-12)


def test_churn_keeps_to_its_band_and_inside_the_process():
    process, rhos = EDM(), [80.0, 30.0, 5.0, 1.0, 0.1, 0.0]
    assert EDMHeun(0.0).plan(process, rhos) == EDMHeun().plan(process, rhos) and not EDMHeun().stochastic
    assert EDMHeun(4.0, s_min=0.5, s_max=10.0).plan(process, rhos).slots == 2
    # 80 is where the process ends: no room above it
    plan = EDMHeun(4.0).plan(process, rhos)
    assert plan.slots == 4 and max(op.t for op in plan.instructions if isinstance(op, Evaluate)) == 80.0
    assert plan.nfe == 9


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("n", SIZES)
def test_er_sde_weights_against_fifty_digits(n, power):
    """The published form: Taylor in rho with I_1, I_2, D'' twice the second difference, D' with Newton's correction."""
    plan = ERSDE(3, phi=float(power)).plan(PROCESS, UniformLambda(n, start=1.0, end=1e-3))
    with mpmath.workdps(50):
        alpha, sigma, _ = exact_nodes(plan)
        rho = [s / a for s, a in zip(sigma, alpha, strict=True)]
        ops = [op for op in plan.instructions if isinstance(op, Combine)]
        for i in sorted({2, 3, n // 2, n - 1}):
            s, t = rho[i], rho[i + 1]
            r = (t / s) ** power
            one, two = (
                mpmath.quad(lambda u: u**-power, [t, s]),
                mpmath.quad(lambda u, s=s: (u - s) / u**power, [t, s]),
            )
            first, second = t - s + t**power * one, (t - s) ** 2 / 2 + t**power * two
            # divided differences as weights of (D_0, D_-1, D_-2)
            near, far = 1 / (s - rho[i - 1]), 1 / (rho[i - 1] - rho[i - 2])
            bend = [2 * v / (s - rho[i - 2]) for v in (near, -near - far, far)]
            slope = [a + v / 2 * (s - rho[i - 1]) for a, v in zip((near, -near, 0), bend, strict=True)]
            got = terms(ops[i])
            assert abs(got["x"] - alpha[i + 1] / alpha[i] * r) < TOLERANCE
            for j in range(3):
                wanted = alpha[i + 1] * ((1 - r) * (j == 0) + first * slope[j] + second * bend[j])
                assert abs(got[f"D{i - j}"] - wanted) < TOLERANCE
            assert abs(noise(ops[i]) - alpha[i + 1] * mpmath.sqrt(max(t**2 - r**2 * s**2, 0))) < TOLERANCE


@pytest.mark.parametrize(
    "left, right",
    [
        (ERSDE(1, phi=1.0), DDIM()),
        (ERSDE(1, phi=2.0), DDPM()),
        (ERSDE(1, phi=1.49), SASolver(1, 0, tau=0.7)),
        (ERSDE(2, phi=Square()), ERSDE(2, phi=2.0)),
    ],
    ids=str,
)
def test_er_sde_is_the_family_of_phi(left, right):
    assert same(left, right)


def test_er_sde_by_default_is_the_recommended_phi():
    """phi = rho (exp(rho^0.3) + 10), checked on one step's factor of x; no overflow where rho is huge."""
    plan = ERSDE().plan(EDM(), [4.0, 3.0, 2.0, 1.0])
    high, low = (v * (math.exp(v**0.3) + 10) for v in (4.0, 3.0))
    assert terms(next(op for op in plan.instructions if isinstance(op, Combine)))["x"] == pytest.approx(
        low / high, rel=1e-14
    )
    assert "nan" not in str(ERSDE().plan(RectifiedFlow(), [1 - 1e-12, 0.5, 0.1]))


RESTARTED = Restart(EDMHeun(), low=0.5, high=2.0, times=2)


def test_restart_is_noise_and_the_same_base_again():
    """Twice from 2.0 down the grid's own nodes; the noise is that of the level above."""
    process, rhos = EDM(), [5.0, 2.5, 1.5, 0.8, 0.4, 0.1]
    plan = RESTARTED.plan(process, rhos)
    assert (plan.slots, plan.steps, plan.nfe) == (2, 5, 2 * (5 + 2 * 3))
    model, x, draws = MIXTURE.denoiser(process), torch.randn(3, 2), torch.randn(2, 3, 2)
    by_hand = run(model, EDMHeun().plan(process, rhos[:5]), x)
    for draw in draws:
        by_hand = by_hand + (2.0**2 - 0.4**2) ** 0.5 * draw
        by_hand = run(model, EDMHeun().plan(process, [2.0, 1.5, 0.8, 0.4]), by_hand)
    by_hand = run(model, EDMHeun().plan(process, rhos[4:]), by_hand)
    assert torch.allclose(run(model, plan, x, noise=GivenNoise(draws)), by_hand, atol=1e-12)


def test_restart_with_steps_of_its_own():
    """Karras spacing between the two levels, as in the paper; with s_noise."""
    process = EDM()
    plan = Restart(EDMHeun(), low=0.5, high=2.0, times=1, steps=3, s_noise=1.1).plan(process, [5.0, 0.4, 0.1])
    wanted = [((2 ** (1 / 7)) + (0.4 ** (1 / 7) - 2 ** (1 / 7)) * k / 3) ** 7 for k in range(3)]
    calls = [op.t for op in plan.instructions if isinstance(op, Evaluate)]
    assert calls[2:8:2] == pytest.approx(wanted) and calls[3:8:2] == pytest.approx([*wanted[1:], 0.4])
    (scale,) = [noise(op) for op in plan.instructions if isinstance(op, Combine) and op.noise]
    assert scale == pytest.approx(1.1 * (4 - 0.16) ** 0.5)


def test_a_grid_that_never_passes_the_band_is_not_restarted():
    grid = [0.3, 0.2, 0.1]
    plan, base = RESTARTED.plan(EDM(), grid), EDMHeun().plan(EDM(), grid)
    assert plan.instructions == base.instructions and plan.slots == 0


def test_restart_of_the_clean_end():
    """A grid that jumps from above the band to sigma = 0 restarts there."""
    plan = RESTARTED.plan(RectifiedFlow(), [1.0, 0.9, 0.0])
    out = run(
        MIXTURE.denoiser(RectifiedFlow()), plan, torch.randn(3, 2), noise=GivenNoise(torch.randn(2, 3, 2))
    )
    assert plan.slots == 2 and bool(out.isfinite().all())


def test_plans_with_noise_print_and_pickle_their_slots_once():
    """The corrector shares its predictor's draw: one slot a step, read by one instruction."""
    plan = SASolver(3, 4).plan(PROCESS, GRID)
    drawn = [slot for op in plan.instructions if isinstance(op, Combine) for _, slot in op.noise]
    assert drawn == list(range(12))
    banded = SASolver(tau=Tau(0.5, 0.1, 2.0))
    assert pickle.loads(pickle.dumps(banded)) == banded


def test_euler_maruyama_ends_by_ddim():
    """At sigma = 0 the score has no bound: the last step is DDIM's, and draws nothing."""
    grid = UniformT(4, start=0.9, end=0.0)
    last, ddim = (method.plan(PROCESS, grid).step(3) for method in (EulerMaruyama(), DDIM()))
    assert not any(op.noise for op in last if isinstance(op, Combine))
    terms = [[c for op in step if isinstance(op, Combine) for c, _ in op.terms] for step in (last, ddim)]
    assert terms[0] == pytest.approx(terms[1])
