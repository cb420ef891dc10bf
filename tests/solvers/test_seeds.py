"""SEEDS: the paper's steps by hand, coefficients, and the coupling of its draws without which weak order 2 is lost."""

import math
from dataclasses import dataclass
from typing import Any

import mpmath
import pytest
import torch
from gaussian_orders import strong_error, weak_error
from mpmath import mpf
from problems import MIXTURE, PROCESS, warped

from pullback.solvers import (
    DATA,
    DDPM,
    EDM,
    NOISE,
    SEEDS,
    Combine,
    DPMSolverPPSingle,
    Evaluate,
    GivenNoise,
    RectifiedFlow,
    SDEDPMSolver,
    SDEDPMSolverPP,
    Tau,
    UniformLambda,
    UniformT,
    V,
    convert,
    expand,
    run,
)

GRID = PROCESS.time(warped(7))


def by_hand(stages: int, x, draws):
    """SEEDS-1, 2, 3 on the noise prediction, tau = 1, every point from the start of the step: x/alpha takes

        -sigma (sqrt(e^{2w} - e^{2v}) z_1 + sqrt(e^{2v} - e^{2u}) z_2 + ...)

    with w, v, ... what is left of the step's lambda at the ends of the stages; the paper's sign of z is turned.
    """
    model, take = MIXTURE.denoiser(PROCESS), iter(draws)
    t, lam = GRID, PROCESS.lam(GRID)

    def eps(x, t):
        return convert(model(x, t.expand(len(x))), x, DATA, NOISE, PROCESS, t)

    def path(ends, h, z) -> Any:
        """The noise at the last of the fractions `ends` of the step h, in units of sigma."""
        left = [ends[-1] - r for r in (0.0, *ends)]
        return sum(
            ((2 * a * h).exp() - (2 * b * h).exp()).sqrt() * draw
            for a, b, draw in zip(left, left[1:], z, strict=False)
        )

    for i in range(len(t) - 1):
        h = lam[i + 1] - lam[i]
        first, alpha = eps(x, t[i]), PROCESS.alpha(t[i])
        z = [next(take) for _ in range(stages)]

        def at(r, lam=lam, i=i, h=h):
            time = PROCESS.time(lam[i] + r * h)
            return time, PROCESS.alpha(time), PROCESS.sigma(time)

        if stages == 1:
            _, a, s = at(1.0)
            x = a / alpha * x - 2 * s * h.expm1() * first + s * path([1.0], h, z)
        elif stages == 2:
            time, a, s = at(0.5)
            u = a / alpha * x - 2 * s * (h / 2).expm1() * first + s * (h.exp() - 1).sqrt() * z[0]
            _, a, s = at(1.0)
            x = a / alpha * x - 2 * s * h.expm1() * eps(u, time)
            x = x + s * (((2 * h).exp() - h.exp()).sqrt() * z[0] + (h.exp() - 1).sqrt() * z[1])
        else:
            time, a, s = at(1 / 3)
            u = a / alpha * x - 2 * s * (h / 3).expm1() * first + s * path([1 / 3], h, z)
            bend, r = eps(u, time) - first, 2 / 3
            time, a, s = at(r)
            u = a / alpha * x - 2 * s * (r * h).expm1() * first + s * path([1 / 3, r], h, z)
            u = u - 2 * s * 2 * ((r * h).expm1() / (r * h) - 1) * bend
            bend = eps(u, time) - first
            _, a, s = at(1.0)
            x = a / alpha * x - 2 * s * h.expm1() * first - 2 * s / r * (h.expm1() / h - 1) * bend
            x = x + s * path([1 / 3, r, 1.0], h, z)
    return x


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_the_noise_side_is_the_papers_steps(stages):
    x, draws = torch.randn(4, 2), torch.randn(7 * stages, 4, 2)
    plan = SEEDS(stages, NOISE).plan(PROCESS, GRID)
    got = run(MIXTURE.denoiser(PROCESS), plan, x, noise=GivenNoise(draws))
    assert (plan.nfe, plan.slots) == (7 * stages, 7 * stages)
    assert torch.allclose(got, by_hand(stages, x, draws), atol=1e-12)


def test_two_stages_on_the_data_side_are_dpmpp_sde():
    """k-diffusion's sample_dpmpp_sde with eta 1 and r 1/2, its two draws replaced by one path's."""
    sigmas, x = [10.0, 4.0, 1.5, 0.5, 0.1], 10 * torch.randn(4, 2)
    draws, model = torch.randn(8, 4, 2), MIXTURE.denoiser(EDM())
    want = x
    for i in range(4):
        s, t = sigmas[i], sigmas[i + 1]
        middle, pair = (s * t) ** 0.5, draws[2 * i : 2 * i + 2]

        def ancestral(low, high=s):
            up = min(low, (low**2 * (high**2 - low**2) / high**2) ** 0.5)
            return (low**2 - up**2) ** 0.5, up

        data = model(want, torch.tensor(s).expand(4))
        down, up = ancestral(middle)
        stage = down / s * want + (1 - down / s) * data + up * pair[0]
        late = model(stage, torch.tensor(middle).expand(4))
        down, up = ancestral(t)
        last = (
            t / middle
        ) ** 2  # e^{-(1 - r) h}, and the noise of the stage shrinks by sigma_t/sigma_m besides
        noise = last * ancestral(middle)[1] * pair[0] + t * (1 - last) ** 0.5 * pair[1]
        want = down / s * want + (1 - down / s) * late + noise
    got = run(model, SEEDS(2).plan(EDM(), sigmas), x, noise=GivenNoise(draws))
    assert torch.allclose(got, want, atol=1e-12)


@pytest.mark.parametrize(
    "left, right",
    [
        (SEEDS(1), DDPM()),
        (SEEDS(1, tau=Tau(0.7, 0.2, 3.0)), SDEDPMSolverPP(1, tau=Tau(0.7, 0.2, 3.0))),
        (SEEDS(1, NOISE), SDEDPMSolver()),
        (SEEDS(1, NOISE, tau=0.4), SDEDPMSolver(0.4)),
        (SEEDS(2, tau=0.0), DPMSolverPPSingle(2)),
        (SEEDS(3, tau=0.0), DPMSolverPPSingle(3)),
    ],
    ids=str,
)
def test_one_method_under_two_names(left, right):
    a, b = (expand(m.plan(PROCESS, GRID)) for m in (left, right))
    assert a.shape == b.shape and torch.allclose(a, b, rtol=1e-12, atol=1e-12)


def from_the_start(side, square, r, h, ends, k) -> dict[str, Any]:
    """The k-th point of three stages written from the start of the step; `ends` are alpha, sigma there and here."""
    (a0, s0), (a1, s1) = ends
    if side == DATA:
        ratio, c = s1 / s0 * mpmath.exp(-square * r * h), (1 + square) * r * h
        level, slope = (
            a1 * mpmath.quad(lambda th, n=n: c * mpmath.exp(-c * (1 - th)) * th**n, [0, 1]) for n in (0, 1)
        )
    else:
        ratio, c = a1 / a0, r * h
        level, slope = (
            -(1 + square) * s1 * mpmath.quad(lambda th, n=n: c * mpmath.exp(c * (1 - th)) * th**n, [0, 1])
            for n in (0, 1)
        )
    bend = {1: 0, 2: 2 * slope, 3: mpf(3) / 2 * slope}[k]
    return {"x": ratio, "1": level - bend} | ({str(k): bend} if k > 1 else {})


@pytest.mark.parametrize("side", [DATA, NOISE], ids=str)
@pytest.mark.parametrize("n", [10, 100, 1000])
def test_weights_against_fifty_digits(n, side):
    """INT of the kernel times 1 and th from the start of the step, and the chain of points that makes of it."""
    plan = SEEDS(3, side, tau=0.7).plan(PROCESS, UniformLambda(n, start=1.0, end=1e-3))
    name = "D" if side == DATA else "E"
    with mpmath.workdps(50):
        square, third = mpf(0.7) ** 2, mpf(1) / 3
        for i in sorted({0, n // 2, n - 1}):
            t = torch.tensor([op.t for op in plan.step(i) if isinstance(op, Evaluate)] + [plan.times[i + 1]])
            alpha, sigma, lam = (
                [mpf(v) for v in f(t).tolist()] for f in (PROCESS.alpha, PROCESS.sigma, PROCESS.lam)
            )
            h, sums, before = lam[3] - lam[0], [op for op in plan.step(i) if isinstance(op, Combine)], {}
            for k, op in enumerate(sums, 1):
                ends = ((alpha[0], sigma[0]), (alpha[k], sigma[k]))
                whole, w = from_the_start(side, square, k * third, h, ends, k), h / 3
                decay = alpha[k] / alpha[k - 1]
                fresh = sigma[k] * mpmath.sqrt(square * (mpmath.exp(2 * w) - 1))
                if side == DATA:
                    decay = sigma[k] / sigma[k - 1] * mpmath.exp(-square * w)
                    fresh = sigma[k] * mpmath.sqrt(1 - mpmath.exp(-2 * square * w))
                got = {register: c for c, register in op.terms}
                assert abs(got.pop("x" if k == 1 else f"s{i}_{k - 1}") - decay) < 1e-12
                assert abs(op.noise[0][0] - fresh) < 1e-12 and len(op.noise) == 1
                for j in map(str, range(1, k + 1)):
                    wanted = whole.get(j, 0) - decay * before.get(j, 0)
                    assert abs(got.get(f"{name}{i}_{j}", 0) - wanted) < 1e-12
                before = whole


@dataclass(frozen=True)
class Uncoupled(SEEDS):
    """Two stages whose last point is stepped to from the start of the step, with a draw of its own."""

    def step(self, b, i):
        super().step(b, i)
        stage, _, last = b.ops[-3], b.ops[-2], b.ops.pop()
        assert isinstance(stage, Combine) and isinstance(last, Combine)
        h, slot = b.lam[i + 1] - b.lam[i], last.noise[0][1]
        decay = b.sigma[i + 1] / b.sigma[i] * math.exp(-h)
        late = b.alpha[i + 1] * -math.expm1(-2 * h)
        size = b.sigma[i + 1] * math.sqrt(-math.expm1(-2 * h))
        assert stage.noise
        b.ops.append(Combine("x", ((decay, "x"), (late, f"D{i}_2")), ((size, slot),)))


def test_independent_draws_lose_the_second_weak_order():
    """The red case: the same two marginals, uncoupled, measure 1 where the path's measure 2."""
    slopes = [
        math.log2(weak_error(method, 128) / weak_error(method, 256)) for method in (Uncoupled(2), SEEDS(2))
    ]
    assert slopes == pytest.approx([1.0, 2.0], abs=0.05)


@pytest.mark.parametrize(
    "method, slope",
    [
        (SEEDS(1), 1.0),
        (SEEDS(1, NOISE, tau=0.5), 1.0),
        (SEEDS(2), 2.0),
        (SEEDS(2, NOISE, tau=0.5), 2.0),
        (SEEDS(3), 2.0),
        (SEEDS(3, NOISE), 2.0),
        (SEEDS(3, tau=Tau(0.7, 0.3, 2.0)), 2.0),
    ],
    ids=str,
)
def test_weak_slopes(method, slope):
    """A third stage buys a smaller error, not an order: two draws a step do not know the integral of the path."""
    assert math.log2(weak_error(method, 128) / weak_error(method, 256)) == pytest.approx(slope, abs=0.08)


@pytest.mark.parametrize("side", [DATA, NOISE], ids=str)
@pytest.mark.parametrize("stages, ends", [(1, [1.0]), (2, [0.5, 1.0]), (3, [1 / 3, 2 / 3, 1.0])])
def test_strong_order_is_one(stages, ends, side):
    """Against the exact solution driven by the same path, each slot the increment over its part of the step."""
    method = SEEDS(stages, side, tau=0.8)
    errors = [strong_error(method, n, 0.8, ends=ends, side=side) for n in (64, 128)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(1.0, abs=0.1)


def test_ends_are_deterministic_and_first_order():
    process = RectifiedFlow()
    plan = SEEDS(3).plan(process, UniformT(4))
    assert (plan.slots, plan.nfe) == (6, 8)
    x = torch.randn(3, 2)
    out = run(MIXTURE.denoiser(process), plan, x, noise=GivenNoise(torch.randn(6, 3, 2)))
    assert bool(out.isfinite().all())


def test_what_cannot_be_is_refused():
    for wrong, words in (
        (lambda: SEEDS(4), "stages=4, expected 1, 2 or 3"),
        (lambda: SEEDS(2, V), "expected DATA or NOISE"),
        (lambda: SEEDS(2, tau=-1.0), "tau=-1.0"),
    ):
        with pytest.raises(ValueError, match=words):
            wrong()
