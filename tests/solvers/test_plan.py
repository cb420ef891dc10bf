"""Plans: equivalences, precision, invariance, printing, pickling, per-sample grids."""

import math
import pickle
from dataclasses import replace
from functools import partial

import mpmath
import pytest
import torch
from problems import MIXTURE, PROCESS, every_method, warped

from pullback.solvers import (
    BDIA,
    DATA,
    DDIM,
    DDPM,
    DEIS,
    EDICT,
    EDM,
    ERSDE,
    FLOW,
    PNDM,
    Apply,
    Combine,
    CosineVP,
    Denoiser,
    DPMSolverPP,
    EDMHeun,
    EulerMaruyama,
    Evaluate,
    FlowAdams,
    FlowEuler,
    GivenNoise,
    Plan,
    Process,
    RectifiedFlow,
    SASolver,
    SDEDPMSolver,
    SDEDPMSolverPP,
    UniformLambda,
    UniformT,
    expand,
    run,
)
from pullback.solvers.loop import total
from pullback.solvers.plan import stack
from pullback.solvers.program import BoundCombine

DATA_SIDE = [
    m
    for m in every_method()
    if not (str(m).startswith(("DEIS", "EDM", "EDICT")) or "Flow" in str(m) or m.stochastic)
]
# the velocity of a VP process is infinite at its end: flow methods start from the end on rectified flow only
WITH_ENDS = [
    (p, m)
    for p in (PROCESS, CosineVP(), RectifiedFlow())
    for m in every_method()
    if isinstance(p, RectifiedFlow) or "Flow" not in str(m)
]


def unipc_p2(grid: torch.Tensor) -> Plan:
    """UniP-2 with bh2 and the short-cut a = 1/2, from its own formula: an independent writing of the midpoint 2M."""
    p, t = PROCESS, grid.tolist()
    lam, alpha, sigma = p.lam(grid).tolist(), p.alpha(grid).tolist(), p.sigma(grid).tolist()
    ops: list = []
    for i in range(len(t) - 1):
        h = lam[i + 1] - lam[i]
        em = math.expm1(-h)
        ops.append(Evaluate((f"D{i}",), "x", t[i], DATA))
        base, older = -alpha[i + 1] * em, 0.0
        if i:
            r = (lam[i - 1] - lam[i]) / h
            older = -alpha[i + 1] * em * 0.5 / r
        terms = [(sigma[i + 1] / sigma[i], "x"), (base - older, f"D{i}")] + (
            [(older, f"D{i - 1}")] if i else []
        )
        ops.append(Combine("x", tuple(terms)))
    return Plan("UniP2", p, tuple(t), tuple(ops), tuple(range(0, 2 * len(t) - 2, 2)), 2, False)


def close(left: torch.Tensor, right: torch.Tensor) -> bool:
    return left.shape == right.shape and torch.allclose(left, right, rtol=1e-12, atol=1e-12)


GRID = PROCESS.time(warped(12))
FLOW_GRID = RectifiedFlow().time(warped(12))


@pytest.mark.parametrize("method", [DPMSolverPP(1), DEIS(1), DDIM(0.0)], ids=str)
def test_first_order_methods_are_ddim(method):
    assert close(expand(method.plan(PROCESS, GRID)), expand(DDIM().plan(PROCESS, GRID)))


def test_flow_euler_and_first_adams_are_ddim_on_the_rectified_path():
    ddim = expand(DDIM().plan(RectifiedFlow(), FLOW_GRID))
    assert close(expand(FlowEuler().plan(RectifiedFlow(), FLOW_GRID)), ddim)
    assert close(expand(FlowAdams(1).plan(RectifiedFlow(), FLOW_GRID)), ddim)
    # including both ends, alpha = 0 and sigma = 0
    whole = UniformT(9)
    model, x = MIXTURE.denoiser(RectifiedFlow()), torch.randn(5, 2)
    velocity = Denoiser(_velocity(model), RectifiedFlow(), FLOW)
    left, right = (
        run(model, DDIM().plan(RectifiedFlow(), whole), x),
        run(velocity, FlowEuler().plan(RectifiedFlow(), whole), x),
    )
    assert torch.allclose(left, right, atol=1e-12)


def _velocity(model):
    def u(x, t):
        t = t[:, None]
        # at t = 0 the expected eps is zero, so u = -x
        return torch.where(t == 0, -x, (x - model(x, t[:, 0])) / t.clamp(min=1e-300))

    return u


def test_edm_euler_is_ddim():
    """DEIS(1) is Euler in rho, on EDM's own process."""
    assert close(
        expand(DEIS(1).plan(EDM(), EDM().time(warped(6)))), expand(DDIM().plan(EDM(), EDM().time(warped(6))))
    )


def test_ddpm_is_ddim_with_eta_one():
    assert close(expand(DDPM().plan(PROCESS, GRID)), expand(DDIM(1.0).plan(PROCESS, GRID)))


def test_midpoint_2m_is_unip2():
    assert close(expand(DPMSolverPP(2).plan(PROCESS, GRID)), expand(unipc_p2(GRID)))


# BDIA leaps over x where y would do, EDICT evaluates a state of time t at time s: as published, and not
# invariant
# (PNDM halves its first steps in model time)
INVARIANT = [
    m
    for m in every_method()
    if not (m.stochastic or isinstance(m, (BDIA, EDICT, PNDM)) or "DEIS" in str(m) or "Flow" in str(m))
]


@pytest.mark.parametrize("method", INVARIANT, ids=str)
def test_same_lambda_same_y_under_any_process(method):
    """The probability flow in y = x/alpha depends on lambda alone. (tAB and flow methods work in their own clock t.)"""
    lam, y0, found = warped(10), torch.randn(6, 2), []
    for process in (PROCESS, EDM(), RectifiedFlow()):
        t = process.time(lam)
        a = process.alpha(t)
        # alpha(T) differs: start each at the same y
        found.append(run(MIXTURE.denoiser(process), method.plan(process, t), y0 * a[0]) / a[-1])
    assert torch.allclose(found[0], found[1], atol=1e-12) and torch.allclose(found[0], found[2], atol=1e-12)


@pytest.mark.parametrize("n", [10, 100, 1000])
def test_coefficients_against_fifty_digits(n):
    """DPM-Solver++(3), every coefficient against mpmath quadrature-free moments on the same float64 lambdas."""
    mpmath.mp.dps = 50
    grid = PROCESS.time(torch.linspace(-5.0, 4.5, n + 1))
    plan = DPMSolverPP(3, exact=True).plan(PROCESS, grid)
    lam = [mpmath.mpf(v) for v in PROCESS.lam(grid).tolist()]
    alpha, sigma = PROCESS.alpha(grid).tolist(), PROCESS.sigma(grid).tolist()
    sums = [op for op in plan.instructions if isinstance(op, Combine)]
    for i in sorted({1, 2, 3, n // 2, n - 1}):
        order = min(3, i + 1)
        h = lam[i + 1] - lam[i]
        nodes = [(lam[i - j] - lam[i]) / h for j in range(order)]
        vandermonde = mpmath.matrix(order, order)
        moment = mpmath.matrix(order, 1)
        for k in range(order):
            w = 1 - mpmath.exp(-h)
            for m in range(1, k + 1):
                w = 1 / mpmath.factorial(m) - w / h
            moment[k] = mpmath.factorial(k) * w
            for j in range(order):
                vandermonde[k, j] = nodes[j] ** k if k else 1
        exact = mpmath.lu_solve(vandermonde, moment)
        terms = dict((name, c) for c, name in sums[i].terms)
        assert abs(terms["x"] - mpmath.mpf(sigma[i + 1]) / sigma[i]) < 1e-12
        for j in range(order):
            assert abs(terms[f"D{i - j}"] - alpha[i + 1] * exact[j]) < 1e-12


@pytest.mark.parametrize("method", DATA_SIDE, ids=str)
def test_constant_predictions_are_integrated_exactly(method):
    """Data concentrated in one point: D is constant and every method on the data side keeps x on its ray to it."""
    point = torch.tensor([0.4, -0.2])
    process = PROCESS
    t = process.time(warped(7))
    eps = torch.randn(3, 2)
    start = process.alpha(t[0]) * point + process.sigma(t[0]) * eps
    out = run(Denoiser(lambda x, t: point.expand_as(x), process, DATA), method.plan(process, t), start)
    assert torch.allclose(out, process.alpha(t[-1]) * point + process.sigma(t[-1]) * eps, atol=1e-12)


@pytest.mark.parametrize(
    "process, method", WITH_ENDS, ids=lambda v: type(v).__name__ if isinstance(v, Process) else str(v)
)
@pytest.mark.parametrize("n", [1, 2, 7])
def test_infinite_ends_are_legal(process, method, n):
    """From t_max to t_min: alpha = 0 and sigma = 0 where the process has them, no NaN, few steps."""
    plan = method.plan(process, UniformT(n))
    x = torch.randn(4, 2)
    model = (
        Denoiser(_velocity(MIXTURE.denoiser(process)), process, FLOW)
        if "Flow" in str(method)
        else MIXTURE.denoiser(process)
    )
    noise = torch.randn(max(plan.slots, 1), 4, 2)
    assert bool(run(model, plan, x, noise=GivenNoise(noise)).isfinite().all())


@pytest.mark.parametrize(
    "method", [EulerMaruyama(), SDEDPMSolver(), SDEDPMSolverPP(2), SASolver(2, 2), ERSDE(2)], ids=str
)
@pytest.mark.parametrize("times", [[0.2, 0.0], [1.0, 0.7]], ids=["to sigma = 0", "from alpha = 0"])
def test_a_stochastic_step_at_an_infinite_end_is_ddim(times, method):
    process = RectifiedFlow()
    x, draws = torch.randn(3, 2), torch.randn(method.plan(process, times).slots, 3, 2)
    model = MIXTURE.denoiser(process)
    found = run(model, method.plan(process, times), x, noise=GivenNoise(draws) if len(draws) else None)
    assert torch.allclose(found, run(model, DDIM().plan(process, times), x), atol=1e-12)


@pytest.mark.parametrize("order", [2, 3])
def test_a_step_longer_than_the_cap_is_of_first_order(order):
    """The last of three steps is three times as long in lambda as the mean of those behind it."""
    lam = torch.tensor([-1.0, -0.6, 0.0, 1.5], dtype=torch.float64)
    times = PROCESS.time(lam).tolist()
    x, model = torch.randn(3, 2), MIXTURE.denoiser(PROCESS)

    def after(method, times, x):
        return run(model, method.plan(PROCESS, times), x)

    def multistep(cap):
        return DPMSolverPP(order, exact=True, cap=cap)

    before = after(multistep(math.inf), times[:3], x)
    behind = 0.6 if order == 2 else 0.5  # the mean over as many steps as the order reaches back
    for cap, long in ((1.5 / behind - 0.01, True), (1.5 / behind + 0.01, False)):
        found = after(multistep(cap), times, x)
        ddim = after(DDIM(), times[2:], before)
        assert torch.allclose(found, ddim if long else after(multistep(math.inf), times, x), atol=1e-12)
        assert torch.allclose(found, ddim, atol=1e-6) == long


@pytest.mark.parametrize("method", every_method(), ids=str)
def test_printed_pickled_compared_and_costed(method):
    plan = method.plan(PROCESS, UniformLambda(5, start=0.9, end=0.05))
    again = pickle.loads(pickle.dumps(plan))
    assert (
        again == plan
        and hash(plan) == hash(again)
        and method.plan(PROCESS, UniformLambda(6, start=0.9, end=0.05)) != plan
    )
    assert f"{plan.nfe} network calls" in str(plan) and str(plan).count("\n") == len(plan.instructions)
    remembered = 4 if isinstance(method, PNDM) else method.order  # four predictions, though of order 2
    assert plan.steps == 5 and plan.held <= remembered + 4


@pytest.mark.parametrize("method", every_method(), ids=str)
def test_per_sample_grids_equal_separate_plans(method):
    grids = torch.stack(
        [PROCESS.time(torch.linspace(-2.0 - 0.3 * b, 2.5 + 0.2 * b, 9)) for b in range(3)], dim=1
    )
    plan = method.plan(PROCESS, grids)
    x, noise = torch.randn(3, 2), torch.randn(max(plan.slots, 1), 3, 2)
    model = MIXTURE.denoiser(PROCESS)
    together = run(model, plan, x, noise=GivenNoise(noise))
    for b in range(3):
        alone = run(
            model, method.plan(PROCESS, grids[:, b]), x[b : b + 1], noise=GivenNoise(noise[:, b : b + 1])
        )
        assert torch.allclose(together[b : b + 1], alone, atol=1e-12)


def test_plans_of_different_structure_do_not_stack():
    plans = [DPMSolverPP(2).plan(RectifiedFlow(), UniformT(4, start=s)) for s in (1.0, 0.9)]
    with pytest.raises(ValueError, match="per-sample grid: sample 1"):
        stack(plans)


def test_numbers_inside_a_function_do_not_stack():
    """One table would give all samples the first one's: fn of the plans must be the same."""
    whole = DDIM().plan(PROCESS, GRID)
    plans = [
        replace(whole, instructions=(*whole.instructions, Apply(("x",), ("x",), partial(torch.mul, other=c))))
        for c in (1.0, 2.0)
    ]
    with pytest.raises(ValueError, match="per-sample grid: sample 1"):
        stack(plans)
    assert stack([plans[0], plans[0]]).batch == 2


def test_a_first_factor_of_one_changes_no_number():
    """x + c k in one pass: the very numbers and gradients of 1 x, then c k added in place; shapes and dtypes too."""
    for size, dtype in ((7, torch.float32), (4099, torch.float32), (7, torch.float64)):
        x, k, seen = (
            torch.randn(3, size, dtype=dtype),
            torch.randn(3, size, dtype=dtype),
            torch.randn(3, size),
        )
        x.requires_grad_()
        k.requires_grad_()
        terms = ((1.0, "x"), (-0.24, "k"), (0.7, "x"))
        fast = total(BoundCombine("x", terms, (), (), 0), {"x": x, "k": k}, None)
        plain = (x * 1.0).add_(k, alpha=-0.24).add_(x, alpha=0.7)
        assert torch.equal(fast, plain)
        for got, wanted in zip(
            *(torch.autograd.grad((y * seen).sum(), (x, k)) for y in (fast, plain)), strict=True
        ):
            assert torch.equal(got, wanted)

    def both(x, k):
        return total(BoundCombine("x", ((1.0, "x"), (2.0, "k")), (), (), 0), {"x": x, "k": k}, None)

    assert both(torch.ones(2, 3), torch.ones(1, 3)).shape == (2, 3)
    assert both(torch.ones(2, 3).float(), torch.ones(2, 3).double()).dtype == torch.float32
    with pytest.raises(RuntimeError, match="shape"):  # one sample's state is not broadcast to many
        both(torch.ones(1, 3), torch.ones(2, 3))
    x = torch.ones(2, 3)
    assert total(BoundCombine("y", ((1.0, "x"),), (), (), 0), {"x": x}, None) is not x


def test_split_runs_like_the_whole():
    plan = DPMSolverPP(3).plan(PROCESS, GRID)
    head, tail = plan.split(5)
    assert head.steps == 5 and tail.steps == 7 and head.instructions + tail.instructions == plan.instructions
    assert isinstance(EDMHeun().plan(PROCESS, GRID), Plan)
