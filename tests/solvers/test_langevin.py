"""Langevin steps: exact laws on Gaussian data, the corrector's loop, batch mates, gradients; what is refused."""

import math
import pickle

import pytest
import torch
from everything import assert_same, everything
from problems import MIXTURE, PROCESS, warped

from pullback.adjoint import Checkpoint, Direct, Reversible, Truncated, sample
from pullback.solvers import (
    BDIA,
    DATA,
    DDIM,
    DDPM,
    EDM,
    MALA,
    ULA,
    Addressed,
    Denoiser,
    DPMSolverPP,
    Gaussian,
    GivenNoise,
    LangevinCorrected,
    Norms,
    RectifiedFlow,
    Transitions,
    UniformT,
    UniPC,
    moments,
    run,
)

MEAN, VARIANCE = 0.7, 0.25
T = 0.4
ALPHA, SIGMA = (float(f(torch.tensor(T, dtype=torch.float64))) for f in (PROCESS.alpha, PROCESS.sigma))
LAW = (ALPHA * MEAN, ALPHA**2 * VARIANCE + SIGMA**2)


# chains
# ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0.02, 0.2])
def test_ula_has_its_biased_stationary_law(size):
    """N(alpha m, V/(1 - size/(2 V))): from a far start it comes there, and from there it does not move."""
    plan = ULA(T, size, 800 if size < 0.1 else 100).plan(PROCESS)
    biased = LAW[1] / (1 - size / (2 * LAW[1]))
    assert moments(plan, MEAN, VARIANCE, 5.0, 9.0) == pytest.approx((LAW[0], biased), rel=1e-6)
    one = ULA(T, size, 1).plan(PROCESS)
    assert moments(one, MEAN, VARIANCE, LAW[0], biased) == pytest.approx((LAW[0], biased), rel=1e-12)
    assert plan.steps == plan.nfe == plan.slots and pickle.loads(pickle.dumps(plan)) == plan


def test_mala_keeps_the_law_that_ula_does_not():
    """2^17 chains of four steps from the law itself, size 0.8 V: four standard errors of variance and kurtosis."""
    size, count = 0.8 * LAW[1], 2**17
    model = Gaussian(torch.full((1,), MEAN, dtype=torch.float64), VARIANCE).denoiser(PROCESS)
    generator = torch.Generator().manual_seed(0)
    x = LAW[0] + LAW[1] ** 0.5 * torch.randn(count, 1, generator=generator, dtype=torch.float64)
    for chain, kept in ((MALA(T, size, 4), True), (ULA(T, size, 4), False)):
        plan = chain.plan(PROCESS)
        draws = torch.randn(plan.slots, count, 1, generator=generator, dtype=torch.float64)
        z = (run(model, plan, x, noise=GivenNoise(draws)) - LAW[0]) / LAW[1] ** 0.5
        error = abs(float(z.square().mean()) - 1)
        assert (error < 4 * (2 / count) ** 0.5) == kept
        if kept:
            assert abs(float(z.pow(4).mean()) - 3) < 4 * (96 / count) ** 0.5
            assert abs(float(z.mean())) < 4 * count**-0.5


def test_mala_takes_and_leaves_whole_samples():
    """By hand, in two dimensions: the rule's acceptance from densities, which the trapezium rule has exactly here."""
    size, law = 0.6, Gaussian(torch.tensor([0.3, -0.2]), torch.tensor([[0.5, 0.2], [0.2, 0.4]]))
    model, x, draws = law.denoiser(PROCESS), torch.randn(200, 2), torch.randn(2, 200, 2)
    got = run(model, MALA(T, size, 1).plan(PROCESS), x, noise=GivenNoise(draws))
    cov = ALPHA**2 * torch.tensor([[0.5, 0.2], [0.2, 0.4]]) + SIGMA**2 * torch.eye(2)
    target = torch.distributions.MultivariateNormal(ALPHA * torch.tensor([0.3, -0.2]), cov)

    def mean(x):
        return x - size * torch.linalg.solve(cov, (x - target.mean).T).T

    def proposal(to, given):
        return -(to - mean(given)).square().sum(1) / (4 * size)

    y = mean(x) + math.sqrt(2 * size) * draws[0]
    ratio = target.log_prob(y) - target.log_prob(x) + proposal(x, y) - proposal(y, x)
    uniform = torch.special.ndtr(draws[1].sum(1) / 2**0.5)
    taken = uniform.log() < ratio
    assert 0.2 < float(taken.double().mean()) < 0.95
    assert torch.allclose(got, torch.where(taken[:, None], y, x), atol=1e-12)


@pytest.mark.parametrize("chain", [ULA(T, 0.1, 3), MALA(T, 0.1, 3)], ids=str)
def test_chains_are_differentiated_by_every_exact_strategy(chain):
    plan, model = chain.plan(PROCESS), MIXTURE.denoiser(PROCESS)
    x, cond = torch.randn(4, 2, requires_grad=True), torch.zeros(2, requires_grad=True)
    noise = torch.randn(plan.slots, 4, 2, requires_grad=True)
    grads = []
    for strategy in (Direct(), Checkpoint(), Checkpoint(offload=True), Truncated(3)):
        out = sample(model, plan, x, cond=cond, noise=noise, gradient=strategy)
        grads.append(torch.autograd.grad(out.square().sum(), [x, cond, noise], allow_unused=True))
    for other in grads[1:]:
        for a, b in zip(grads[0], other, strict=True):
            assert (a is b is None) or (a is not None and torch.allclose(a, b, rtol=1e-12, atol=1e-14))


def test_a_single_loop_through_the_chain():
    """Implicit Diffusion: the particles step on the law of the parameter of the moment, which follows their gradient.

    E|x - c|^2 over N(theta, 1) is least at theta = c; one Langevin step and one step of theta at a time.
    """
    process, target = EDM(), 2.0
    plan, theta = ULA(1.0, 0.2, 1).plan(process), torch.zeros(1, requires_grad=True)
    model = Denoiser(lambda x, t, cond: (x + t[:, None] ** 2 * cond) / (1 + t[:, None] ** 2), process, DATA)
    generator, seen = torch.Generator().manual_seed(0), []
    x = torch.randn(4096, 1, generator=generator)
    for _ in range(150):
        noise = torch.randn(1, 4096, 1, generator=generator)
        x = sample(model, plan, x.detach(), cond=theta, noise=noise, gradient=Truncated(1))
        (gradient,) = torch.autograd.grad((x - target).square().mean(), theta)
        theta.data -= 0.5 * gradient
        seen.append(float(theta.detach()))
    assert seen[0] < 0.5 and seen[-1] == pytest.approx(target, abs=0.1)


def test_chains_without_a_law_are_refused():
    with pytest.raises(ValueError, match="t=0.0, expected a time .* with sigma > 0"):
        ULA(0.0, 0.1, 3).plan(RectifiedFlow())
    with pytest.raises(ValueError, match="size"):
        ULA(0.1, -0.1, 3)


# the corrector
# ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norms", Norms)
@pytest.mark.parametrize("times", [1, 2])
def test_the_corrector_is_the_papers_loop(norms, times):
    """x <- x + eps g + sqrt(2 eps) z, eps = 2 (r |z|/|g|)^2, each sample by its own norms."""
    process, grid, r = EDM(), [5.0, 2.0, 0.7, 0.2], 0.16
    model, x = MIXTURE.denoiser(process), 5 * torch.randn(4, 2)
    plan = LangevinCorrected(DDPM(), r, times, norms).plan(process, grid)
    draws = torch.randn(plan.slots, 4, 2)
    assert plan.slots == plan.nfe == 3 * (1 + times)
    got, take, want = run(model, plan, x, noise=GivenNoise(draws)), iter(draws), x
    for s, t in zip(grid, grid[1:], strict=False):
        data = model(want, torch.tensor(s).expand(4))
        want = data + (t / s) ** 2 * (want - data) + t * (1 - (t / s) ** 2) ** 0.5 * next(take)
        for _ in range(times):
            g, z = (model(want, torch.tensor(t).expand(4)) - want) / t**2, next(take)
            ratio = t if norms is Norms.EXPECTED else (z.norm(dim=1) / g.norm(dim=1))[:, None]
            eps = torch.as_tensor(2 * (r * ratio) ** 2)
            want = want + eps * g + (2 * eps).sqrt() * z
    assert torch.allclose(got, want, atol=1e-12)


def test_what_many_corrections_leave_is_the_bias_of_ula():
    """Whatever the predictor did: V/(1 - eps/(2 V)) with eps = 2 (snr sigma)^2."""
    times = PROCESS.time(torch.tensor([-2.0, -1.0, -0.5], dtype=torch.float64))
    plan = LangevinCorrected(DDIM(), snr=0.4, times=80).plan(PROCESS, times)
    alpha, sigma = float(PROCESS.alpha(times[-1])), float(PROCESS.sigma(times[-1]))
    law, eps = alpha**2 * VARIANCE + sigma**2, 2 * (0.4 * sigma) ** 2
    found = moments(plan, MEAN, VARIANCE, -3.0, 7.0)
    assert found == pytest.approx((alpha * MEAN, law / (1 - eps / (2 * law))), rel=1e-8)


def test_refining_the_grid_does_not_remove_it():
    """A plain recursion of (mean, variance) over DDPM and corrector, at 2000 steps and 4000: the same excess."""
    errors = []
    for n in (2000, 4000):
        lam = torch.linspace(-2.0, 0.0, n + 1, dtype=torch.float64)
        alpha, sigma = (f(PROCESS.time(lam)).tolist() for f in (PROCESS.alpha, PROCESS.sigma))
        laws = [a * a * VARIANCE + s * s for a, s in zip(alpha, sigma, strict=True)]
        v = laws[0]
        for i in range(n):
            kept = (sigma[i + 1] / sigma[i]) ** 2
            a = alpha[i] / alpha[i + 1]
            gain = a * kept + alpha[i + 1] * (1 - a * a * kept) * alpha[i] * VARIANCE / laws[i]
            v = gain**2 * v + sigma[i + 1] ** 2 * (1 - a * a * kept)
            eps = 2 * (0.16 * sigma[i + 1]) ** 2
            v = (1 - eps / laws[i + 1]) ** 2 * v + 2 * eps
            if n == 2000 and i == 9:
                plan = LangevinCorrected(DDPM()).plan(PROCESS, PROCESS.time(lam)).split(10)[0]
                found = moments(plan, MEAN, VARIANCE, alpha[0] * MEAN, laws[0])
                assert found == pytest.approx((alpha[10] * MEAN, v), rel=1e-9)
        errors.append(v - laws[-1])
    eps = 2 * (0.16 * sigma[-1]) ** 2
    assert errors[1] == pytest.approx(errors[0], rel=0.1)
    assert errors[1] == pytest.approx(laws[-1] / (1 - eps / (2 * laws[-1])) - laws[-1], rel=0.2)


def test_own_norms_keep_samples_apart():
    """The published batch mean would not."""
    plan = LangevinCorrected(DDIM(), norms=Norms.OWN).plan(PROCESS, UniformT(4, end=0.05))
    model, x = MIXTURE.denoiser(PROCESS), torch.randn(4, 2)
    whole = run(model, plan, x, noise=Addressed(3))
    other = x.clone()
    other[0] = 1e6
    assert torch.equal(run(model, plan, other, noise=Addressed(3))[1:], whole[1:])
    joint = {"a": x[:, :1], "b": x[:, 1:]}
    two = Denoiser(
        lambda x, t: dict(zip("ab", model(torch.cat([x["a"], x["b"]], 1), t).split(1, 1), strict=True)),
        PROCESS,
        DATA,
    )
    noise = torch.randn(plan.slots, 4, 2)
    split = run(two, plan, joint, noise={"a": noise[..., :1], "b": noise[..., 1:]})
    assert torch.allclose(
        torch.cat([split["a"], split["b"]], 1), run(model, plan, x, noise=noise), atol=1e-12
    )


@pytest.mark.parametrize("base", [DDPM(), DPMSolverPP(2)], ids=str)
def test_own_norms_under_every_exact_strategy(base):
    """At x, conditioning, noise, controls, parameters and a captured tensor; twice differentiated too."""
    method = LangevinCorrected(base, norms=Norms.OWN)
    plain = everything(method, Direct())
    for strategy in (Checkpoint(), Checkpoint(offload=True), Truncated(9)):
        assert_same(everything(method, strategy), plain)
    assert_same(everything(method, Checkpoint(), order=2), everything(method, Direct(), order=2), 1e-10)


def test_a_grid_for_each_sample():
    grids = torch.stack([PROCESS.time(warped(5, -2.0 - b)) for b in range(2)], 1)
    model, x = MIXTURE.denoiser(PROCESS), torch.randn(2, 2)
    method, draws = LangevinCorrected(DDPM(), norms=Norms.OWN), torch.randn(10, 2, 2)
    together = run(model, method.plan(PROCESS, grids), x, noise=GivenNoise(draws))
    for b in range(2):
        plan, own = method.plan(PROCESS, grids[:, b]), GivenNoise(draws[:, b : b + 1])
        assert torch.allclose(run(model, plan, x[b : b + 1], noise=own), together[b : b + 1], atol=1e-12)


def test_a_corrected_base_looks_again():
    """UniPC's prediction at its predicted point does not hold after a Langevin step: it is not taken for the next."""
    plan = LangevinCorrected(UniPC(2), snr=0.1).plan(PROCESS, PROCESS.time(warped(6)))
    assert plan.nfe == 5 + 6 + 6  # each step but the last has the corrector's own call


def test_what_it_cannot_correct():
    with pytest.raises(ValueError, match="reversible base BDIA"):
        LangevinCorrected(BDIA())
    plan = LangevinCorrected(DDIM(), norms=Norms.OWN).plan(PROCESS, UniformT(4, end=0.05))
    for asked in (lambda: Transitions(plan), lambda: moments(plan, 0.0, 1.0, 0.0, 1.0), plan.inverse):
        with pytest.raises(ValueError, match="the Apply"):
            asked()
    with pytest.raises(ValueError, match="Apply instructions"):
        x = torch.randn(2, 2, requires_grad=True)
        sample(MIXTURE.denoiser(PROCESS), plan, x, noise=Addressed(0), gradient=Reversible())


def test_at_sigma_zero_nothing_is_corrected():
    plan = LangevinCorrected(DDIM(), times=2).plan(RectifiedFlow(), UniformT(3))
    assert plan.slots == 4 and plan.nfe == 3 + 4
