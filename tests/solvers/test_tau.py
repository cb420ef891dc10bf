"""Tau: one meaning of the noise's strength in every method that takes it, as equality of plans."""

import math
import pickle

import mpmath
import pytest
import torch
from mpmath import mpf
from problems import MIXTURE, PROCESS, warped

from pullback.solvers import (
    DDIM,
    DDPM,
    ERSDE,
    NOISE,
    SEEDS,
    Ancestral,
    Combine,
    ConstantFlowSDE,
    DPMSolverPP,
    Eta,
    EulerMaruyama,
    FlowSDE,
    GivenNoise,
    Method,
    RectifiedFlow,
    ReversibleHeun,
    SASolver,
    SDEDPMSolver,
    SDEDPMSolverPP,
    Tau,
    UniformT,
    expand,
    run,
)

GRID = PROCESS.time(warped(12))
BAND = Tau(0.7, low=0.3, high=2.0)
BEYOND = Tau(1.6)


def same(left: Method, right: Method) -> bool:
    a, b = (expand(m.plan(PROCESS, GRID)) for m in (left, right))
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-12, atol=1e-12)


def falling(lam: float) -> float:
    return 1 / (1 + math.exp(lam))


@pytest.mark.parametrize(
    "tau", [Tau(0.0), Tau(0.6), BEYOND, BAND], ids=lambda each: getattr(each, "__name__", str(each))
)
def test_one_step_of_one_strength_is_one_step(tau):
    """Whatever it is called: the data prediction held over a step, to first order."""
    first = SASolver(1, 0, tau=tau)
    for other in (
        DDIM(tau),
        SDEDPMSolverPP(1, tau=tau),
        SEEDS(1, tau=tau),
        ERSDE(1, phi=tau),
        Ancestral(DDIM(), tau),
    ):
        assert same(first, other), str(other)


@pytest.mark.parametrize(
    "tau", [0.0, 0.6, 1.6, BAND, falling], ids=lambda each: getattr(each, "__name__", str(each))
)
def test_strengths_agree_in_the_noise_prediction_and_at_two_nodes(tau):
    assert same(SDEDPMSolver(tau), SEEDS(1, NOISE, tau=tau))
    assert same(SDEDPMSolverPP(2, exact=True, tau=tau), SASolver(2, 0, tau=tau))
    assert same(SDEDPMSolverPP(3, tau=tau), SASolver(3, 0, tau=tau))


@pytest.mark.parametrize("eta", [0.2, 0.7, 1.0])
def test_eta_is_a_tau_of_the_step(eta):
    """tau^2 = -log(1 - eta^2 (1 - e^{-2h}))/(2h)."""
    for other in (
        SASolver(1, 0, tau=Eta(eta)),
        SDEDPMSolverPP(1, tau=Eta(eta)),
        SEEDS(1, tau=Eta(eta)),
        Ancestral(DDIM(), eta),
    ):
        assert same(DDIM(eta), other), str(other)
    with mpmath.workdps(50):
        for h in (1e-9, 0.03, 1.0, 9.0):
            exact = -mpmath.log(1 - mpf(eta) ** 2 * (1 - mpmath.exp(-2 * mpf(h)))) / (2 * mpf(h))
            assert abs(Eta(eta).mean_square(0.0, h) - exact) < 1e-14


def test_numbers_and_tau_mean_the_same():
    assert same(DDPM(), DDIM(Tau(1.0))) and same(ERSDE(2, phi=Tau(0.7)), ERSDE(2, phi=1.49))
    assert same(SDEDPMSolverPP(2), SDEDPMSolverPP(2, tau=Tau(1.0)))
    assert same(SDEDPMSolverPP(2, tau=0.0), DPMSolverPP(2))
    assert same(FlowSDE(0.9), FlowSDE(Tau(0.9 / math.sqrt(2))))
    assert same(ReversibleHeun(), ReversibleHeun(tau=Tau(0.0)))


@pytest.mark.parametrize("tau", [0.5, 1.0, 1.6])
def test_the_flow_sde_is_euler_maruyama(tau):
    """g = a sqrt(sigma (sigma' alpha - alpha' sigma)/alpha) is the process's own g times a/sqrt(2)."""
    assert same(FlowSDE(Tau(tau)), EulerMaruyama(tau)) and same(
        FlowSDE(math.sqrt(2) * tau), EulerMaruyama(tau)
    )
    assert same(FlowSDE(BAND), EulerMaruyama(BAND))


@pytest.mark.parametrize(
    "method",
    [
        DDIM(BAND),
        SDEDPMSolverPP(2, tau=BAND),
        SEEDS(2, tau=BAND),
        ERSDE(2, phi=BAND),
        ReversibleHeun(tau=BAND),
    ],
    ids=lambda each: getattr(each, "__name__", str(each)),
)
def test_outside_its_band_nothing_is_drawn(method):
    """The band is lambda from -0.69 to 1.20: the first and the last step lie outside, two lie partly in it."""
    lam = torch.tensor([-2.0, -1.0, -0.5, 0.2, 1.3, 2.0], dtype=torch.float64)
    plan = method.plan(PROCESS, PROCESS.time(lam))
    drawn = [any(op.noise for op in plan.step(i) if isinstance(op, Combine)) for i in range(5)]
    assert drawn == [False, True, True, True, False]
    assert pickle.loads(pickle.dumps(method)) == method


@pytest.mark.parametrize(
    "method",
    [DDIM(BAND), FlowSDE(BAND), EulerMaruyama(BAND), SEEDS(3, tau=BEYOND)],
    ids=lambda each: getattr(each, "__name__", str(each)),
)
@pytest.mark.parametrize("n", [1, 2, 5])
def test_from_alpha_zero_to_sigma_zero(method, n):
    plan = method.plan(RectifiedFlow(), UniformT(n))
    noise = GivenNoise(torch.randn(max(plan.slots, 1), 3, 2))
    model = MIXTURE.denoiser(RectifiedFlow())
    assert bool(run(model, plan, torch.randn(3, 2), noise=noise).isfinite().all())


def test_what_is_no_strength():
    for wrong, words in (
        (lambda: Eta(1.2), "Eta: got value=1.2"),
        (lambda: DDIM(1.2), "DDIM: got eta=1.2.*or a Tau"),
        (lambda: FlowSDE(-1.0), "FlowSDE: got a=-1.0"),
        (lambda: SDEDPMSolverPP(2, tau=-0.1), "SDEDPMSolverPP: got tau=-0.1"),
        (lambda: SDEDPMSolver(-0.1), "SDEDPMSolver: got tau=-0.1"),
        (lambda: EulerMaruyama(-0.1), "EulerMaruyama: got tau=-0.1"),
        (lambda: ReversibleHeun(noise_side=True, tau=1.0), "noise_side=True with noise"),
    ):
        with pytest.raises(ValueError, match=words):
            wrong()
    assert not ConstantFlowSDE(0.0).stochastic


def test_ddim_takes_its_eta_in_either_form():
    times = PROCESS.time(warped(6))
    one, other = (DDIM(eta).plan(PROCESS, times) for eta in (0.5, Eta(0.5)))
    assert one.instructions == other.instructions and not DDIM(Eta(0.0)).stochastic
