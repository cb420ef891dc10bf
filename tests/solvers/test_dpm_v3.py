"""DPM-Solver-v3: its coefficients, the statistics it is given, and what it gains by them."""

import math
import pickle
from typing import Any

import mpmath
import pytest
import torch
from everything import assert_same, everything
from mpmath import mpf
from papers import GRID, START
from problems import MIXTURE, PROCESS, warped

from pullback.adjoint import Checkpoint, Direct
from pullback.solvers import (
    DOPRI5,
    EDM,
    NOISE,
    Addressed,
    Denoiser,
    DPMSolver,
    DPMSolverPP,
    DPMSolverV3,
    Method,
    Mixture,
    ModelStatistics,
    OnProcess,
    Quadratic,
    RectifiedFlow,
    RhoRK,
    SASolver,
    UniformLambda,
    UniformT,
    V,
    expand,
    model_statistics,
    run,
)

MODEL = MIXTURE.denoiser(PROCESS)
FAR = Denoiser(lambda x, t: x, EDM(t_max=2.0), NOISE)  # of no more noise than sigma = 2
LAM = torch.linspace(-2.2, 2.7, 12)
OF_TWO = ModelStatistics(  # one of each of two elements, with a drift
    LAM,
    torch.stack([0.5 + 0.4 * LAM.tanh(), torch.ones(12)], 1),
    torch.stack([-0.3 + 0.2 * LAM.cos(), torch.zeros(12)], 1),
    torch.stack([LAM.sin(), torch.full((12,), 0.3)], 1),
)
ON_NOISE = ModelStatistics([0.0], [0.0], [-1.0], [0.0])


def sampled(
    method: Method, grid: Any = GRID, x: Any = START, process: Any = PROCESS, law: Any = MIXTURE
) -> torch.Tensor:
    return run(law.denoiser(process), method.plan(process, grid), x)


@pytest.mark.parametrize(
    "ours, other",
    [
        (DPMSolverV3(predictor=3, corrector=0), DPMSolverPP(3, exact=True)),
        (DPMSolverV3(predictor=2, corrector=0), DPMSolverPP(2, exact=True)),
        (DPMSolverV3(), SASolver(3, 3, tau=0.0)),
        (DPMSolverV3(predictor=3, corrector=4), SASolver(3, 4, tau=0.0)),
        (DPMSolverV3(ON_NOISE, 3, 0), DPMSolver(3, exact=True)),
    ],
    ids=str,
)
def test_without_statistics_it_is_the_data_or_the_noise_form(ours, other):
    assert torch.allclose(*(expand(m.plan(PROCESS, GRID)) for m in (ours, other)), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    "low, high", [(-1.2, -0.9), pytest.param(0.8, 2.9, marks=pytest.mark.slow), (1.0, 0.2)]
)
def test_integrals_against_quadrature_of_the_papers_formula(low, high):
    """l, s and b of two knots are straight lines; beyond the knots they are constant."""
    ends = [-2.0, 2.0]
    values: Any = [(0.2, 0.9), (-0.7, 0.3), (0.5, -0.4)]
    statistics = ModelStatistics(ends, *values)
    nodes = [low, low - (high - low), low - 1.7 * (high - low)]
    with mpmath.workdps(16):

        def line(pair, u):
            share = min(max((u - ends[0]) / (ends[1] - ends[0]), 0), 1)
            return mpf(pair[0]) + (mpf(pair[1]) - mpf(pair[0])) * share

        def integral(fn, a, z):
            corners = sorted(
                {a, *(mpf(e) for e in ends if min(a, z) < e < max(a, z)), z}, reverse=bool(a > z)
            )
            return mpmath.quad(fn, corners) if a != z else mpf(0)

        def primitive(pair, u):
            held = min(max(u, ends[0]), ends[1])
            inside = (held - ends[0]) * (mpf(pair[0]) + line(pair, held)) / 2
            return inside + (u - held) * line(pair, u)

        def since(pair, u):
            return primitive(pair, u) - primitive(pair, mpf(low))

        (l, s, b), start, end = values, mpf(low), mpf(high)  # noqa: E741

        def drift(u) -> Any:
            return integral(lambda r: mpmath.exp(-since(s, r)) * line(b, r), start, u)

        def growth(u) -> Any:
            return mpmath.exp(since(l, u) + since(s, u))

        def share(j) -> Any:
            points = [mpf(v) for v in nodes]

            def basis(u):
                return mpmath.fprod((u - q) / (points[j] - q) for k, q in enumerate(points) if k != j)

            return integral(lambda u: growth(u) * basis(u), start, end)

        keep: Any = mpmath.exp(-since(l, end))
        weights = [keep * share(j) * mpmath.exp(-since(s, mpf(v))) for j, v in enumerate(nodes)]
        held: Any = mpmath.fsum(share(j) * drift(mpf(v)) for j, v in enumerate(nodes))
        rest = keep * (held - integral(lambda u: growth(u) * drift(u), start, end))
    got = statistics.step(low, high, nodes)
    assert float(got[0]) == pytest.approx(float(keep), abs=1e-13)
    assert [float(w) for w in got[1]] == pytest.approx([float(w) for w in weights], abs=1e-12)
    assert float(got[2]) == pytest.approx(float(rest), abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", [DPMSolverV3(OF_TWO, 3, 0, starter=True), DPMSolverV3(OF_TWO, 3, 4, starter=True)], ids=str
)
def test_the_order_holds_whatever_the_statistics(method):
    """Of every element its own l, s and b, measured from nothing; of the state and of its gradient."""

    def solved(method, n):
        x = START.clone().requires_grad_()
        out = sampled(method, PROCESS.time(warped(n)), x)
        return out.detach(), *torch.autograd.grad(out.square().sum(), x)

    truth = solved(RhoRK(DOPRI5), 192)
    errors = [
        [float((a - b).norm()) for a, b in zip(solved(method, n), truth, strict=True)] for n in (96, 192)
    ]
    for coarse, fine in zip(*errors, strict=True):
        assert math.log2(coarse / fine) == pytest.approx(method.order, abs=0.3)


def test_gaussian_data_is_sampled_in_one_step():
    """F is a number there, of every element: l, s and b say all of the model; what is left is the splines' error."""
    law = Mixture(torch.ones(1), torch.tensor([[0.7, -0.3]]), torch.diag(torch.tensor([0.25, 0.04]))[None])
    ends: Any = {"start": 0.9, "end": 0.03}
    found = model_statistics(
        law.denoiser(PROCESS), law.sample(16, torch.Generator().manual_seed(0)), **ends, knots=60
    )
    lam = torch.from_numpy(found.lam)[:, None]
    gain = torch.tensor([0.25, 0.04]) / (torch.tensor([0.25, 0.04]) + torch.exp(-2 * lam))
    drift = 2 * gain * (1 - gain) * torch.tensor([0.7, -0.3])
    assert torch.allclose(torch.from_numpy(found.l), 1 - gain, atol=1e-12) and not found.s.any()
    assert torch.allclose(
        torch.from_numpy(found.b)[3:-3], drift[3:-3], atol=1e-4
    )  # a spline's ends are worse
    truth = sampled(RhoRK(DOPRI5), UniformLambda(128, **ends), law=law)
    error = [
        float((sampled(m, UniformLambda(1, **ends), law=law) - truth).abs().max())
        for m in (DPMSolverV3(found), DPMSolverPP(2))
    ]
    assert error[0] < 2e-5 and error[1] > 0.5


@pytest.mark.parametrize("prediction", [V, None], ids=["v", "data"])
def test_statistics_against_finite_differences(prediction):
    """One element, where a random sign gives the diagonal itself; F' along the flow by a step to either side."""
    law = Mixture.isotropic(torch.tensor([0.4, 0.6]), torch.tensor([[1.0], [-0.6]]), torch.tensor([0.3, 0.5]))
    model = exact = law.denoiser(PROCESS)
    if prediction is V:  # the same network, told as (alpha x - D)/sigma

        def velocity(x, t):
            a, s = (f(t)[:, None] for f in (PROCESS.alpha, PROCESS.sigma))
            return (a * x - exact(x, t)) / s

        model = Denoiser(velocity, PROCESS, V)
    data = law.sample(50, torch.Generator().manual_seed(1))
    found = model_statistics(model, data, start=0.8, end=0.1, knots=40, seed=4)

    def seen(x, lam):
        t = PROCESS.time(lam)
        return PROCESS.alpha(t), exact(x, t.expand(len(x)))

    for k in (10, 25):
        lam = torch.from_numpy(found.lam)[k]
        t = PROCESS.time(lam)
        alpha = PROCESS.alpha(t)
        x = alpha * data + PROCESS.sigma(t) * Addressed(4)(2 * k, data)
        x.requires_grad_()
        value = seen(x, lam)[1]
        (slope,) = torch.autograd.grad(value.sum(), x)
        level = 1 - alpha * slope.mean()
        assert float(found.l[k, 0]) == pytest.approx(float(level), abs=1e-10)

        def moved(h, x=x.detach(), lam=lam, alpha=alpha, value=value.detach(), k=k):
            y = x / alpha
            middle = y + h / 2 * (value - y)  # a midpoint step of dy/dlambda = D - y
            a, d = seen(PROCESS.alpha(PROCESS.time(lam + h / 2)) * middle, lam + h / 2)
            y = y + h * (d - middle)
            a, d = seen(PROCESS.alpha(PROCESS.time(lam + h)) * y, lam + h)
            return (1 - torch.from_numpy(found.level(float(lam + h)))) * y - d

        at, change = moved(0.0), (moved(1e-4) - moved(-1e-4)) / 2e-4
        s = ((at - at.mean()) * (change - change.mean())).mean() / at.var(correction=0)
        assert float(found.s[k, 0]) == pytest.approx(float(s), abs=1e-5)
        assert float(found.b[k, 0]) == pytest.approx(float(change.mean() - s * at.mean()), abs=1e-5)


def test_measured_statistics_pay_at_few_calls():
    """RMS error on the mixture at 6, 8 and 10 calls: below half of the best of DPM-Solver++ there."""
    model = MIXTURE.denoiser(PROCESS)
    ends: Any = {"start": 1.0, "end": 1e-3}
    found = model_statistics(model, MIXTURE.sample(500, torch.Generator().manual_seed(0)), **ends)
    start = torch.randn(256, 2, generator=torch.Generator().manual_seed(5))
    truth = sampled(RhoRK(DOPRI5), UniformLambda(200, **ends), start)
    for n in (6, 8, 10):
        ours, *others = (
            float((sampled(m, Quadratic(n, **ends), start) - truth).square().mean().sqrt())
            for m in (
                DPMSolverV3(found, 2, 2),
                DPMSolverPP(2),
                DPMSolverPP(3),
                DPMSolverV3(predictor=2, corrector=2),
            )
        )
        assert ours < 0.5 * min(others)


def test_gradients_with_factors_of_every_element():
    statistics = ModelStatistics(
        [-2.0, 2.0], [[0.2, 0.5, 1.0]] * 2, [[-0.5, 0.0, 0.1]] * 2, [[0.0, 0.3, -0.2]] * 2
    )
    method = DPMSolverV3(statistics)
    assert_same(everything(method, Checkpoint()), everything(method, Direct()))


def test_grids_per_sample_and_infinite_ends():
    method = DPMSolverV3(OF_TWO)
    grids = torch.stack([PROCESS.time(torch.linspace(-2.0 - 0.3 * k, 2.5, 7)) for k in range(2)], dim=1)
    together = sampled(method, grids, START[:2])
    for k in range(2):
        assert torch.allclose(together[k : k + 1], sampled(method, grids[:, k], START[k : k + 1]), atol=1e-12)
    for n in (1, 2, 6):
        assert sampled(method, UniformT(n), process=RectifiedFlow()).isfinite().all()


def test_statistics_compare_pickle_and_print():
    again = pickle.loads(pickle.dumps(OF_TWO))
    assert again == OF_TWO and hash(again) == hash(OF_TWO) and again != ON_NOISE
    assert str(OF_TWO) == "ModelStatistics(12 knots, lambda -2.2 .. 2.7, (2,))"
    assert pickle.loads(pickle.dumps(DPMSolverV3(OF_TWO))) == DPMSolverV3(OF_TWO) != DPMSolverV3()


@pytest.mark.parametrize(
    "bad, match",
    [
        (lambda: ModelStatistics([0.0, 0.0], [1.0] * 2, [0.0] * 2, [0.0] * 2), "lambdas that do not rise"),
        (lambda: ModelStatistics([0.0], [math.inf], [0.0], [0.0]), "or NaN or infinity"),
        (lambda: ModelStatistics([0.0, 1.0], [1.0], [0.0], [0.0]), r"shapes \[\(2,\), \(1,\)"),
        (lambda: DPMSolverV3(predictor=5), "predictor: got 5, expected a whole number from 1 to 4"),
        (lambda: DPMSolverV3(corrector=5), "corrector: got 5, expected a whole number from 0"),
        (lambda: DPMSolverV3(OF_TWO).plan(PROCESS, GRID).inverse(), "got the Apply one <- ones_like"),
        (
            lambda: model_statistics(MIXTURE.denoiser(RectifiedFlow()), START, start=1.0, end=0.1),
            "model_statistics: got lambda -inf",
        ),
        (lambda: model_statistics(MODEL, START[:0], start=0.8, end=0.1), "data: got an empty batch"),
        (
            lambda: model_statistics(OnProcess(FAR, PROCESS), START, start=0.9, end=0.1),
            "OnProcess: got a network call",
        ),
    ],
)
def test_bad_arguments(bad, match):
    with pytest.raises(ValueError, match=match):
        bad()


def test_statistics_see_the_conditioning_and_low_precision_is_carried():
    """What cond says is what a network that has it built in says; data in bfloat16 are float32 data."""
    gain = torch.tensor(0.3)
    told = Denoiser(lambda x, t, c: torch.tanh(c * x), PROCESS, NOISE)
    built_in = Denoiser(lambda x, t: torch.tanh(gain * x), PROCESS, NOISE)
    found = model_statistics(told, START, start=0.8, end=0.1, knots=3, cond=gain)
    assert found == model_statistics(built_in, START, start=0.8, end=0.1, knots=3)
    low = START.bfloat16()
    found = [model_statistics(built_in, x, start=0.8, end=0.1, knots=2) for x in (low, low.float())]
    assert found[0] == found[1]
