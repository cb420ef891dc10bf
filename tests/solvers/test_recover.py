"""Recovered noise: running the plan along it gives the data back, and its law is the one the encoding promises."""

import math
from typing import Any

import pytest
import torch
from problems import MIXTURE, PROCESS, every_method, warped

from pullback.adjoint import sample
from pullback.solvers import (
    DATA,
    DDIM,
    DDPM,
    ERSDE,
    SEEDS,
    Addressed,
    CorrectorMode,
    CosineVP,
    Denoiser,
    EDMHeun,
    Encoding,
    GivenNoise,
    HybridHeun,
    LangevinCorrected,
    Method,
    Plan,
    Restart,
    ReversibleHeun,
    Rex,
    SASolver,
    SDEDPMSolver,
    SDEDPMSolverPP,
    StochasticImprovedEuler,
    Tau,
    UniformLambda,
    UniformT,
    recover_noise,
    response,
    run,
)

STOCHASTIC = [m for m in every_method() if m.stochastic]
MEAN, VARIANCE = 0.7, 0.25


def refused(method: Method) -> bool:
    """Noise where it cannot be solved for: before a step, in a jump up, in two states, at a stage, in several draws
    of a step, under a last corrector.
    """
    kinds = (
        EDMHeun
        | HybridHeun
        | LangevinCorrected
        | Restart
        | ReversibleHeun
        | Rex
        | SEEDS
        | StochasticImprovedEuler
    )
    return isinstance(method, kinds) or (
        isinstance(method, SASolver) and method.evaluation is CorrectorMode.PECE
    )


@pytest.mark.parametrize("encoding", Encoding)
@pytest.mark.parametrize("method", STOCHASTIC, ids=str)
def test_the_data_come_back(method, encoding):
    """To round-off in either precision, and the same draws serve both."""
    plan, x = method.plan(PROCESS, PROCESS.time(warped(12))), MIXTURE.means
    model, source = MIXTURE.denoiser(PROCESS), Addressed(5, stream=1)
    if refused(method):
        with pytest.raises(ValueError, match="expected"):
            recover_noise(model, plan, x, noise=source, encoding=encoding)
        return
    starts = []
    for dtype, tolerance in ((torch.float64, 1e-13), (torch.float32, 1e-6)):
        start, noise = recover_noise(model, plan, x.to(dtype), noise=source, encoding=encoding)
        back = run(model, plan, start, noise=noise)
        assert start.dtype == back.dtype == dtype and noise.values.shape == (12, *x.shape)
        assert torch.allclose(back, x.to(dtype), rtol=0, atol=tolerance)
        assert torch.equal(sample(model, plan, start, noise=noise), back)
        starts.append(start.double())
    assert torch.allclose(*starts, atol=1e-6)


def test_a_thousand_float32_steps_do_not_add_up():
    """Every draw makes good the rounding before it."""
    plan = DDPM().plan(PROCESS, UniformLambda(1000, start=1.0, end=1e-3))
    model, x = MIXTURE.denoiser(PROCESS), MIXTURE.means.float()
    start, noise = recover_noise(model, plan, x, noise=Addressed(0))
    assert torch.allclose(run(model, plan, start, noise=noise), x, rtol=0, atol=5e-7)


def covariance(
    method: Method, encoding: Encoding, mean: float, variance: float, low: float, high: float, n: int
) -> tuple[Plan, torch.Tensor]:
    """Exact covariance (1 + N, 1 + N) of the start and the noises for data N(mean, variance), no Monte Carlo.

    All is affine in [1, the sample, the encoding draws], so `recover_noise` runs on these coordinate vectors.
    """
    plan = method.plan(PROCESS, PROCESS.time(torch.linspace(low, high, n + 1)))
    last = torch.tensor(plan.times[-1])
    alpha, sigma = float(PROCESS.alpha(last)), float(PROCESS.sigma(last))

    def affine(x, t):
        a, s = PROCESS.alpha(t)[:, None], PROCESS.sigma(t)[:, None]
        constant = mean * torch.eye(n + 2)[:1]
        return constant + a * variance / (a**2 * variance + s**2) * (x - a * constant)

    basis = torch.eye(n + 2)
    data = alpha * mean * basis[:1] + (alpha**2 * variance + sigma**2) ** 0.5 * basis[1:2]
    start, noise = recover_noise(
        Denoiser(affine, PROCESS, DATA), plan, data, noise=GivenNoise(basis[2:, None]), encoding=encoding
    )
    found = torch.cat([start, noise.values[:, 0]])
    assert found[1:, 0].abs().max() < 1e-10  # the noises have mean zero
    return plan, found[:, 1:] @ found[:, 1:].T


def test_joint_noises_are_white():
    """DDPM's mean is the exact conditional one, so its noises are uncorrelated with each other and with the
    start; their variance is 1 and what the step's data do not know: alpha_t^2 (1 - e^{-2h})^2 Var[x0|x_s] /
    sd^2.
    """
    plan, found = covariance(DDPM(), Encoding.JOINT, MEAN, VARIANCE, -2.0, 2.5, 40)
    t, h = torch.tensor(plan.times), 4.5 / 40
    a, s, after = PROCESS.alpha(t[:-1]), PROCESS.sigma(t[:-1]), PROCESS.alpha(t[1:]) / PROCESS.sigma(t[1:])
    unknown = VARIANCE * s**2 / (a**2 * VARIANCE + s**2)
    total = float(PROCESS.alpha(t[0]) ** 2 * VARIANCE + PROCESS.sigma(t[0]) ** 2)
    wanted = torch.cat([torch.tensor([total]), 1 - math.expm1(-2 * h) * after**2 * unknown])
    assert torch.allclose(found, torch.diag(wanted), atol=1e-11)


@pytest.mark.parametrize(
    "method",
    [DDPM(), DDIM(1.0), SDEDPMSolver(), SDEDPMSolverPP(2), SASolver(3, 4), ERSDE(2, phi=2.0)],
    ids=str,
)
def test_joint_noises_become_standard_normal(method):
    """Every reverse-SDE method: the covariance nears the identity as steps are refined, edit-friendly it moves away."""
    off = [
        float(
            (covariance(method, Encoding.JOINT, MEAN, VARIANCE, -2.0, 1.0, n)[1][1:, 1:] - torch.eye(n))
            .abs()
            .max()
        )
        for n in (50, 100, 200)
    ]
    assert off[1] < 0.6 * off[0] and off[2] < 0.6 * off[1] and off[2] < 0.05
    wide = [
        float(
            covariance(method, Encoding.INDEPENDENT, MEAN, VARIANCE, -2.0, 1.0, n)[1].diagonal()[1:-1].mean()
        )
        for n in (50, 100)
    ]
    assert wide[0] > 5 and wide[1] == pytest.approx(2 * wide[0], rel=0.2)


def test_joint_noises_of_known_data_are_exactly_standard():
    """Where the denoiser knows x0 every step is q(x_t | x_s, x0)."""
    _, found = covariance(DDPM(), Encoding.JOINT, MEAN, 0.0, -2.0, 2.5, 7)
    assert torch.allclose(found[1:, 1:], torch.eye(7), atol=1e-11) and found[0, 1:].abs().max() < 1e-11


def test_edit_friendly_noises_are_large_and_correlated():
    """SDEDPMSolver on known data, far from the last node: variance [1 + (e^h - 2)^2]/(e^{2h} - 1) and, as
    neighbours share a draw, covariance (e^h - 2)/(e^{2h} - 1).
    """
    h = 0.05
    _, found = covariance(SDEDPMSolver(), Encoding.INDEPENDENT, MEAN, 0.0, -2.0, 6.0, 160)
    within = found[1:61, 1:61]
    variance = (1 + (math.exp(h) - 2) ** 2) / math.expm1(2 * h)
    assert variance == pytest.approx(18.1, abs=0.05)
    assert torch.allclose(within.diagonal(), torch.full((60,), variance), atol=2e-3)
    assert torch.allclose(
        within.diagonal(1), torch.full((59,), (math.exp(h) - 2) / math.expm1(2 * h)), atol=2e-3
    )
    assert within.triu(2).abs().max() < 2e-3


def test_drawn_joint_noises_are_standard_normal():
    """The same through `Addressed`, on 65536 draws of the marginal: mean, variance, correlation across steps,
    fourth moment.
    """
    grid, like, error = PROCESS.time(torch.linspace(-2.0, 1.0, 101)), torch.empty(1, 2**16), 2**-8
    alpha, sigma = PROCESS.alpha(grid[-1]), PROCESS.sigma(grid[-1])
    x = alpha * MEAN + (alpha**2 * VARIANCE + sigma**2).sqrt() * Addressed(1).initial(like)

    def denoise(x, t):
        a, s = PROCESS.alpha(t)[:, None], PROCESS.sigma(t)[:, None]
        return MEAN + a * VARIANCE / (a**2 * VARIANCE + s**2) * (x - a * MEAN)

    start, noise = recover_noise(
        Denoiser(denoise, PROCESS, DATA), DDPM().plan(PROCESS, grid), x, noise=Addressed(2)
    )
    draws = torch.cat([start, noise.values[:, 0]])
    assert draws[1:].mean(1).abs().max() < 4 * error
    assert (draws[1:].var(1) - 1).min() > -4 * 2**0.5 * error and (
        draws[1:].var(1) - 1
    ).max() < 0.04 + 4 * 2**0.5 * error
    assert (torch.corrcoef(draws) - torch.eye(101)).abs().max() < 4.9 * error  # the largest of 5050
    assert ((draws[1:] / draws[1:].std(1, keepdim=True)).pow(4).mean(1) - 3).abs().max() < 4 * 24**0.5 * error


def test_another_condition_edits():
    """Replayed under a mean m' the sample moves by the plan's own response to m, whatever was encoded."""
    plan = SDEDPMSolverPP(2).plan(PROCESS, PROCESS.time(warped(12)))
    alpha, sigma = PROCESS.alpha, PROCESS.sigma

    def network(x, t, c):
        a, s = alpha(t)[:, None], sigma(t)[:, None]
        return c + a * VARIANCE / (a**2 * VARIANCE + s**2) * (x - a * c)

    model, x = Denoiser(network, PROCESS, DATA), torch.randn(3, 2)
    start, noise = recover_noise(model, plan, x, cond=torch.tensor(0.7), noise=Addressed(3))
    assert torch.allclose(run(model, plan, start, cond=torch.tensor(0.7), noise=noise), x, atol=1e-13)
    moved = run(model, plan, start, cond=torch.tensor(-0.4), noise=noise) - x
    wanted = response(plan, -0.4, VARIANCE)[0] - response(plan, 0.7, VARIANCE)[0]
    assert torch.allclose(moved, wanted.expand_as(moved), atol=1e-12) and float(wanted) < -0.5


@pytest.mark.parametrize("encoding", Encoding)
def test_any_split_of_the_batch(encoding):
    model = Denoiser(lambda x, t: torch.tanh(x + t[:, None, None]), PROCESS, DATA)
    plan, x = SASolver(2, 3).plan(PROCESS, PROCESS.time(warped(6))), torch.randn(4, 3, 2, dtype=torch.float32)
    start, noise = recover_noise(model, plan, x, noise=Addressed(8, samples=[4, 7, 2, 9]), encoding=encoding)
    for b, name in enumerate([4, 7, 2, 9]):
        one, own = recover_noise(
            model, plan, x[b : b + 1], noise=Addressed(8, samples=[name]), encoding=encoding
        )
        assert torch.equal(one[0], start[b]) and torch.equal(own.values[:, 0], noise.values[:, b])


def test_a_grid_for_each_sample():
    times = torch.stack([PROCESS.time(warped(6)), PROCESS.time(warped(6, -1.5, 3.0))], 1)
    plan, x, model = DDPM().plan(PROCESS, times), torch.randn(2, 2), MIXTURE.denoiser(PROCESS)
    start, noise = recover_noise(model, plan, x, noise=Addressed(0))
    assert torch.allclose(run(model, plan, start, noise=noise), x, atol=1e-13)
    for b in range(2):
        one, own = recover_noise(
            model, DDPM().plan(PROCESS, times[:, b]), x[b : b + 1], noise=Addressed(0, samples=[b])
        )
        assert torch.allclose(one[0], start[b], atol=1e-14) and torch.allclose(
            own.values[:, 0], noise.values[:, b], atol=1e-12
        )


def test_a_start_at_pure_noise_is_pure_noise():
    process = CosineVP()
    plan = DDPM().plan(process, [1.0, 0.6, 0.3, 0.01])
    start, noise = recover_noise(MIXTURE.denoiser(process), plan, MIXTURE.means, noise=Addressed(0))
    assert torch.equal(start, Addressed(0)(0, start))
    assert torch.allclose(run(MIXTURE.denoiser(process), plan, start, noise=noise), MIXTURE.means, atol=1e-13)


def test_gradients_pass_by_ordinary_autograd():
    plan, model = DDPM().plan(PROCESS, PROCESS.time(warped(4))), MIXTURE.denoiser(PROCESS)

    def both(x):
        start, noise = recover_noise(model, plan, x, noise=Addressed(0))
        return start, noise.values

    assert torch.autograd.gradcheck(both, torch.randn(2, 2, requires_grad=True))


@pytest.mark.parametrize(
    "method, grid, wanted",
    [
        (DDPM(), UniformT(5), "sigma = 0"),
        (SDEDPMSolverPP(2), UniformT(5), "sigma = 0"),
        (DDIM(), UniformT(5, end=0.1), "0 draws in step 0"),
        (SASolver(tau=Tau(1.0, low=0.2, high=2.0)), UniformT(5, end=0.1), "0 draws in step 0"),
        (Rex(sde=True), UniformT(5, end=0.1), "draws in step 0"),
        (EDMHeun(10.0), UniformT(5, end=0.1), "step 0"),
    ],
    ids=str,
)
def test_what_cannot_be_steered_is_named_before_any_call(method, grid, wanted):
    def never(x, t):
        raise AssertionError

    plan = method.plan(PROCESS, grid)
    with pytest.raises(ValueError, match=wanted):
        recover_noise(Denoiser(never, PROCESS, DATA), plan, torch.zeros(1, 2), noise=Addressed(0))


def test_a_source_that_does_not_fit_is_refused_first():
    plan = DDPM().plan(PROCESS, UniformT(3, end=0.1))
    with pytest.raises(ValueError, match="sample ids"):
        recover_noise(MIXTURE.denoiser(PROCESS), plan, torch.zeros(1, 2), noise=Addressed(0, samples=[1, 2]))
    with pytest.raises(
        (ValueError, TypeError), match="Encoding"
    ):  # TypeError where the annotations are checked
        wrong: Any = "joint"
        recover_noise(MIXTURE.denoiser(PROCESS), plan, torch.zeros(1, 2), noise=Addressed(0), encoding=wrong)
