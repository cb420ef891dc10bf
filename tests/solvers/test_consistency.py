"""Consistency sampling: exact with the Gaussian's consistency function; LCM, CM, SCM and TCD against their loops."""

import math

import pytest
import torch
from problems import MIXTURE, PROCESS, warped

from pullback.adjoint import Checkpoint, Direct, sample
from pullback.solvers import (
    DATA,
    DDIM,
    EDM,
    FLOW,
    LCM,
    TCD,
    CosineVP,
    Denoiser,
    GivenNoise,
    Process,
    RectifiedFlow,
    Transitions,
    UniformT,
    UserPair,
    expand,
    moments,
    run,
)

MEAN, VARIANCE = 0.7, 0.25


def consistency(process: Process, end: float | None = None) -> Denoiser:
    """The Gaussian's: along the flow (x - alpha m)/sqrt(alpha^2 v + sigma^2) is constant. To the data, or to `end`."""

    def law(t):
        return process.alpha(t) * MEAN, (process.alpha(t) ** 2 * VARIANCE + process.sigma(t) ** 2).sqrt()

    def network(x, t):
        mean, std = (v[:, None] for v in law(t))
        last = (MEAN, VARIANCE**0.5) if end is None else law(torch.tensor(end, dtype=torch.float64))
        return last[0] + last[1] / std * (x - mean)

    return Denoiser(network, process, DATA)


def gaussian(process: Process, t: float) -> tuple[float, float]:
    """Mean and variance of p_t."""
    alpha, sigma = (float(f(torch.tensor(t, dtype=torch.float64))) for f in (process.alpha, process.sigma))
    return alpha * MEAN, alpha**2 * VARIANCE + sigma**2


def law_of(model, plan, start) -> tuple[float, float]:
    """Mean and variance of the sample from a Gaussian start: the run is affine in x and in every draw."""
    unit = torch.eye(
        2 + plan.slots, dtype=torch.float64
    )  # row 0 at zero, row 1 at x = 1, row 2 + k at draw k = 1
    noise = GivenNoise(unit.T[2:, :, None]) if plan.slots else None
    constant, *slopes = run(model, plan, unit[:, 1:2], noise=noise)[:, 0].tolist()
    slopes = [value - constant for value in slopes]
    return constant + slopes[0] * start[0], slopes[0] ** 2 * start[1] + sum(c * c for c in slopes[1:])


@pytest.mark.parametrize("process", [PROCESS, CosineVP(), RectifiedFlow(), EDM()], ids=str)
@pytest.mark.parametrize("n", [1, 2, 5])
def test_every_node_has_exactly_its_law(process, n):
    times = torch.linspace(process.t_max, 0.3, n + 1, dtype=torch.float64)
    plan = LCM().plan(process, times)
    start, end = (gaussian(process, float(t)) for t in times[[0, -1]])
    assert law_of(consistency(process), plan, start) == pytest.approx(end, rel=1e-12)
    assert Transitions(plan).stds == pytest.approx(process.sigma(times[1:]).tolist())


@pytest.mark.parametrize("n", [1, 2, 6])
def test_models_that_end_before_the_data(n):
    """CM: f is the trajectory's point at t = 0.002, where the grid ends: its law there, no noise in the last step."""
    process, end = EDM(), 0.002
    times = torch.linspace(80.0, end, n + 1, dtype=torch.float64)
    plan = LCM(end=end).plan(process, times)
    assert plan.slots == n - 1
    start = (MEAN, VARIANCE + 80.0**2)
    got = law_of(consistency(process, end), plan, start)
    assert got == pytest.approx((MEAN, VARIANCE + end**2), rel=1e-12)
    x, draws = torch.randn(3, 2), torch.randn(n, 3, 2)
    model = Denoiser(lambda x, t: torch.tanh(x) / (1 + t[:, None]), process, DATA)
    want = x
    for i in range(n):
        want = model(want, times[i].expand(3))
        if i + 1 < n:
            want = want + (times[i + 1] ** 2 - end**2).sqrt() * draws[i]
    assert torch.allclose(run(model, plan, x, noise=GivenNoise(draws)), want, atol=1e-12)
    with pytest.raises(ValueError, match=r"end=0.5, expected a time .* no later than"):
        LCM(end=0.5).plan(process, times)


def test_scm_is_lcm_on_the_circle():
    """sCM: x_t = cos(t) x_0 + sin(t) z, z of deviation sigma_d, F the velocity over it, t = 1.57, 1.3, 0.8, 0."""
    deviation, times = 0.5, torch.tensor([1.57, 1.3, 0.8, 0.0], dtype=torch.float64)
    process = UserPair(torch.cos, lambda t: deviation * torch.sin(t), 0.0, math.pi / 2)
    x, draws = torch.randn(3, 2), torch.randn(2, 3, 2)

    def network(x, t):
        return torch.tanh(x + t[:, None])

    got = run(
        Denoiser(lambda x, t: deviation * network(x, t), process, FLOW),
        LCM().plan(process, times),
        x,
        noise=GivenNoise(draws),
    )
    want = x
    for i in range(3):
        s, t = times[i], times[i + 1]
        data = s.cos() * want - s.sin() * deviation * network(want, s.expand(3))
        want = t.cos() * data
        if i < 2:
            want = want + t.sin() * deviation * draws[i]
    assert torch.allclose(got, want, atol=1e-12)


def by_hand(model, x, times, gamma, draws):
    """TCD's gamma-sampling: to (1 - gamma) t by DDIM, to t by the forward process."""
    for i, (s, t) in enumerate(zip(times, times[1:], strict=False)):
        e = (1 - gamma) * t
        data = model(x, s.expand(len(x)))
        noise = (x - PROCESS.alpha(s) * data) / PROCESS.sigma(s)
        below = PROCESS.alpha(e) * data + PROCESS.sigma(e) * noise
        ratio = PROCESS.alpha(t) / PROCESS.alpha(e)
        x = ratio * below + (1 - ratio**2).sqrt() * draws[i]
    return x


@pytest.mark.parametrize("gamma", [0.2, 0.7])
def test_tcd_is_the_papers_loop(gamma):
    times, x, draws = torch.tensor([0.9, 0.6, 0.35, 0.1]), torch.randn(3, 2), torch.randn(3, 3, 2)
    model = MIXTURE.denoiser(PROCESS)
    got = run(model, TCD(gamma).plan(PROCESS, times), x, noise=GivenNoise(draws))
    assert torch.allclose(got, by_hand(model, x, times, gamma, draws), atol=1e-12)


def test_tcd_lies_between_ddim_and_lcm():
    for left, right in ((TCD(0.0), DDIM()), (TCD(1.0), LCM())):
        for times in (PROCESS.time(warped(5)), UniformT(4)):
            a, b = (expand(m.plan(PROCESS, times)) for m in (left, right))
            assert a.shape == b.shape and torch.allclose(a, b, atol=1e-12)
    with pytest.raises(ValueError, match="gamma=1.1"):
        TCD(1.1)


def test_a_denoiser_is_no_consistency_function():
    """Of order 0: however many steps, the variance misses as it did."""
    for method in (LCM(), TCD(0.5)):
        t = PROCESS.time(torch.linspace(-2.0, 2.5, 401, dtype=torch.float64))
        start, end = (gaussian(PROCESS, float(v)) for v in t[[0, -1]])
        found = moments(method.plan(PROCESS, t), MEAN, VARIANCE, *start)
        assert abs(found[1] - end[1]) > 0.02


def test_gradients_of_few_step_sampling():
    """Reward tuning of a distilled model: through four calls and their noise."""
    plan = LCM().plan(PROCESS, UniformT(4))
    noise, x = torch.randn(3, 3, 2, requires_grad=True), torch.randn(3, 2, requires_grad=True)
    grads = []
    for strategy in (Checkpoint(), Direct()):
        out = sample(MIXTURE.denoiser(PROCESS), plan, x, noise=noise, gradient=strategy)
        grads.append(torch.autograd.grad(out.square().sum(), [x, noise]))
    for a, b in zip(*grads, strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-14)
