"""Each guide against something exact: Bayes' rule for Gaussians, published steps written out, torch's optimisers."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from guides import ENDS, MATRIX, MODEL, PLAN, PRIOR, PROCESS, SEEN, Spy, Y
from torch import Tensor

from pullback.adjoint import sample
from pullback.guidance import (
    DAPS,
    DDNM,
    DPS,
    LGD,
    MCG,
    MPGD,
    SNR,
    TFG,
    TMPD,
    Bayes,
    ClassifierGuidance,
    Context,
    DataGuidance,
    DiffPIR,
    FlowChef,
    FreeDoM,
    Greedy,
    Guide,
    Matrix,
    Measurement,
    PiGDM,
    Raw,
    REDdiff,
    Residual,
    ScoreRatio,
    Unit,
    Universal,
    steer,
)
from pullback.solvers import (
    DDIM,
    Addressed,
    DPMSolverPP,
    FlowEuler,
    Gaussian,
    RectifiedFlow,
    UniformLambda,
    UniformT,
)

X = torch.randn(4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
MEAN = torch.tensor([0.5, -1.0, 0.2, 0.8], dtype=torch.float64)
HALF = torch.tensor(
    [[1.0, 0.2, 0.0, 0.3], [0.0, 0.7, 0.4, 0.0], [0.1, 0.0, 0.9, 0.2], [0.0, 0.3, 0.0, 0.5]],
    dtype=torch.float64,
)
COV = HALF @ HALF.T
ODE = DDIM().plan(PROCESS, UniformLambda(6, **ENDS))


def first_step(guide, x=X, plan=ODE, model=MODEL, **kwargs):
    """(context of the first call, state after the first step)."""
    seen, states = [], []
    steer(model, plan, x, guide + Spy(seen.append), callback=lambda k, t, s: states.append(s), **kwargs)
    return seen[0], states[1]


def level(value):
    return float(value.flatten()[0])


# Bayes' rule
# -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Compare(Guide):
    """Checks a guide's D' against a formula at every call of a run."""

    guide: Guide
    want: Callable[[Context], Tensor]
    differentiates = True

    def data(self, ctx, data):
        got = self.guide.data(ctx, data)
        assert torch.allclose(got, self.want(ctx), atol=1e-10, rtol=1e-10)
        return got


def bayes(prior, a_matrix, y, std):
    """E[x_0 | x_t, y], from p(x_0|y) diffused: nothing of it passes through a network's Jacobian."""
    posterior = prior.posterior(a_matrix, y, std)
    return lambda ctx: posterior.denoise(ctx.x.detach(), level(ctx.alpha), level(ctx.sigma))


@pytest.mark.parametrize("std", [0.05, 0.3, 2.0])
def test_pigdm_is_exact_for_isotropic_gaussian_data(std):
    prior = Gaussian(MEAN, 0.49)
    seen = Measurement(Matrix(MATRIX), Y, std)
    steer(
        prior.denoiser(PROCESS), ODE, X, Compare(PiGDM(seen, data_std=0.7), bayes(prior, MATRIX, Y[0], std))
    )


def test_the_pigdm_vector_is_the_gradient_of_the_likelihood():
    prior, seen = Gaussian(MEAN, 0.49), Measurement(Matrix(MATRIX), Y, 0.3)
    guide = PiGDM(seen, data_std=0.7)
    checked = []

    def look(ctx):
        a, s = level(ctx.alpha), level(ctx.sigma)
        x = ctx.x.detach().requires_grad_()
        spread = 0.49 * s**2 / (0.49 * a**2 + s**2)
        law = torch.distributions.MultivariateNormal(
            torch.zeros(2), spread * MATRIX @ MATRIX.T + 0.09 * torch.eye(2)
        )
        with torch.enable_grad():
            log_likelihood = law.log_prob(
                Y - (MEAN + a * 0.49 / (0.49 * a**2 + s**2) * (x - a * MEAN)) @ MATRIX.T
            )
            (want,) = torch.autograd.grad(log_likelihood.sum(), x)
        got = (guide.data(ctx, ctx.data) - ctx.data) / ctx.tweedie
        assert torch.allclose(got, want, atol=1e-10)
        checked.append(1)

    steer(prior.denoiser(PROCESS), ODE, X, Spy(look))
    assert len(checked) == 6


@pytest.mark.parametrize("std", [0.05, 2.0])
def test_tmpd_is_exact_for_any_gaussian_data(std):
    prior, seen = Gaussian(MEAN, COV), Measurement(Matrix(MATRIX), Y, std)
    steer(prior.denoiser(PROCESS), ODE, X, Compare(TMPD(seen), bayes(prior, MATRIX, Y[0], std)))


def test_classifier_guidance_with_the_true_likelihood_is_bayes_rule():
    posterior = PRIOR.posterior(MATRIX, Y[0], 0.3)

    def log_prob(x, t):  # p(y|x_t) = p(x_t|y) p(y) / p(x_t)
        a, s = PROCESS.alpha(t), PROCESS.sigma(t)
        return posterior.log_prob(x, a, s) - PRIOR.log_prob(x, a, s)

    steer(MODEL, ODE, X, Compare(ClassifierGuidance(log_prob), bayes(PRIOR, MATRIX, Y[0], 0.3)))


def test_the_snr_policy_is_pigdm_where_rows_are_orthogonal():
    rows = 0.6 * torch.linalg.qr(torch.randn(4, 2))[0].T
    seen = Measurement(Matrix(rows), Y, 0.2)
    one, other = (
        steer(MODEL, ODE, X, g).sample for g in (PiGDM(seen), DataGuidance(seen.nats, SNR(0.2, gain=0.6)))
    )
    assert torch.allclose(one, other, atol=1e-10)


@pytest.mark.parametrize(
    "guide, steps, bound", [(TMPD(SEEN), 60, 3.5e-3), (TMPD(SEEN), 120, 9e-4), (PiGDM(SEEN), 60, None)]
)
def test_posterior_mean_and_variance_of_a_guided_run(guide, steps, bound):
    """A linear guide makes the run affine: its mean and covariance follow from five runs, with no Monte Carlo.

    Exact guidance has the posterior's, to the solver's second-order error (2.8e-3 at 60 steps); PiGDM with
    one variance for data of several has not (0.12).
    """
    prior = Gaussian(MEAN, COV)
    plan = DPMSolverPP(2).plan(PROCESS, UniformLambda(steps, start=1.0, end=1e-3))
    posterior = prior.posterior(MATRIX, Y[0], 0.3)
    start, end = (posterior.marginal(PROCESS.alpha(t), PROCESS.sigma(t)) for t in (1.0, 1e-3))
    x = start.means[0] + torch.cat([torch.zeros(1, 4), torch.linalg.cholesky(start.covs[0]).T])
    out = steer(prior.denoiser(PROCESS), plan, x, guide).sample
    matrix = (out[1:] - out[0]).T
    wrong = max(
        float((out[0] - end.means[0]).abs().max()), float((matrix @ matrix.T - end.covs[0]).abs().max())
    )
    assert wrong < bound if bound else wrong > 3e-2, wrong


def test_a_null_guide_keeps_the_data_variance():
    """The variance 0.25 of Gaussian data survives a VP run, and does not collapse."""
    prior = Gaussian(torch.zeros(4), 0.25)
    plan = DPMSolverPP(2).plan(PROCESS, UniformLambda(60, start=1.0, end=1e-3))
    out = steer(prior.denoiser(PROCESS), plan, torch.eye(4), Spy(lambda ctx: None)).sample
    assert torch.allclose(out.square().sum(1), torch.full((4,), 0.25), rtol=5e-3)


# one published step at a time
# ---------------------------------------------------------------------------------------------


def test_dps_takes_each_samples_own_norm():
    x = X.detach().requires_grad_()
    ctx, got = first_step(DPS(SEEN, Residual(0.7)))
    a, s, a2, s2 = (level(v) for v in (ctx.alpha, ctx.sigma, ctx.next_alpha, ctx.next_sigma))
    data = PRIOR.denoise(x, a, s)
    norm = (Y - data @ MATRIX.T).norm(dim=1)
    (slope,) = torch.autograd.grad(norm.sum(), x)  # grad |r|^2 / |r| = 2 grad |r|
    want = (s2 / s * x + (a2 - a * s2 / s) * data - 0.7 * 2 * slope).detach()
    assert torch.allclose(got, want, atol=1e-11)


def test_mpgd_holds_the_noise_and_flowchef_the_velocity():
    ctx, got = first_step(MPGD(SEEN, Raw(0.2)))
    slope = -2 * SEEN.residual(ctx.data) @ MATRIX
    eps = (X - ctx.alpha * ctx.data) / ctx.sigma
    assert torch.allclose(got, ctx.next_alpha * (ctx.data - 0.2 * slope) + ctx.next_sigma * eps, atol=1e-11)
    ctx, got = first_step(MPGD(SEEN, Raw(0.2), project=lambda data: data.clamp(-0.1, 0.1)))
    held = (ctx.data - 0.2 * slope).clamp(-0.1, 0.1)
    assert torch.allclose(got, ctx.next_alpha * held + ctx.next_sigma * eps, atol=1e-11)
    flow = RectifiedFlow()
    plan = FlowEuler().plan(flow, UniformT(5, start=0.9, end=0.0))
    ctx, got = first_step(FlowChef(SEEN, Raw(0.2)), plan=plan, model=PRIOR.denoiser(flow))
    slope = -2 * SEEN.residual(ctx.data) @ MATRIX
    velocity = (X - ctx.data) / 0.9
    assert torch.allclose(got, X + (0.72 - 0.9) * velocity - 0.2 * slope, atol=1e-11)


def test_universal_guidance_is_the_published_change_of_eps():
    guide = Universal(SEEN, Raw(0.1), Raw(0.05), steps=2)
    x = X.detach().requires_grad_()
    ctx, got = first_step(guide)
    a, s, a2, s2 = (level(v) for v in (ctx.alpha, ctx.sigma, ctx.next_alpha, ctx.next_sigma))
    data = PRIOR.denoise(x, a, s)
    eps = (x - a * data) / s
    (slope,) = torch.autograd.grad((Y - data @ MATRIX.T).square().sum(), x)
    point = data.detach()
    for _ in range(2):
        point = point - 0.05 * -2 * (Y - point @ MATRIX.T) @ MATRIX
    eps = (eps + 0.1 * s * slope - a / s * (point - data)).detach()
    want = a2 * (X - s * eps) / a + s2 * eps
    assert torch.allclose(got, want, atol=1e-10)


def test_policies():
    ctx, _ = first_step(Spy(lambda ctx: None))
    slope, loss = torch.randn(4, 4), torch.rand(4) + 0.5
    norm = slope.norm(dim=1, keepdim=True)
    eps = (ctx.x.detach() - ctx.alpha * ctx.data) / ctx.sigma
    assert torch.equal(Raw(0.3)(ctx, slope, loss), 0.3 * slope)
    assert torch.allclose(Unit(0.3)(ctx, slope, loss).norm(dim=1), torch.full((4,), 0.3))
    assert torch.allclose(Residual(0.3)(ctx, slope, loss), 0.3 * slope / loss.sqrt()[:, None])
    assert torch.allclose(
        ScoreRatio(0.3)(ctx, slope, loss), 0.3 * eps.norm(dim=1, keepdim=True) * slope / norm
    )
    assert torch.equal(Unit()(ctx, 0 * slope, loss), 0 * slope)


def test_the_bayes_policy_moves_the_state_as_a_corrected_prediction_would():
    """On stochastic and multistep plans too: dx_s/dD is read off the plan."""
    for method in (DDIM(), DDIM(1.0), DPMSolverPP(2)):
        plan = method.plan(PROCESS, UniformLambda(1, start=0.8, end=0.4))
        on_state = steer(MODEL, plan, X, DPS(SEEN.nats, Bayes()), noise=Addressed(1)).sample
        on_data = steer(MODEL, plan, X, DataGuidance(SEEN.nats, Raw()), noise=Addressed(1)).sample
        assert torch.allclose(on_state, on_data, atol=1e-10)


def test_lgd_smooths_the_loss():
    draws = Addressed(9)
    ctx, got = first_step(LGD(SEEN.nats, 3, 0.5, Raw(0.1)), draws=draws)
    x = X.detach().requires_grad_()
    a, s = level(ctx.alpha), level(ctx.sigma)
    data = PRIOR.denoise(x, a, s)
    width = 0.5 * s / math.hypot(a, s)
    mean = torch.stack([(-SEEN.nats(data + width * draws(j, X))).exp() for j in range(3)]).mean(0)
    (slope,) = torch.autograd.grad(-mean.log().sum(), x)
    _, plain = first_step(Spy(lambda ctx: None))
    assert torch.allclose(got, plain - 0.1 * slope, atol=1e-9)


def test_proximal_and_projected_predictions():
    ctx, _ = first_step(Spy(lambda ctx: None))
    got = DiffPIR(SEEN, lam=3.0).data(ctx, ctx.data).detach().requires_grad_()
    rho = 3.0 * level(ctx.alpha) ** 2 / level(ctx.sigma) ** 2
    objective = SEEN.nats(got) + rho / 2 * (got - ctx.data).square().sum(1)
    assert torch.allclose(torch.autograd.grad(objective.sum(), got)[0], torch.zeros(4, 4), atol=1e-9)
    exact = Measurement(Matrix(MATRIX), Y, 0.0)
    got = DDNM(exact).data(ctx, ctx.data)
    assert torch.allclose(got @ MATRIX.T, Y.expand(4, 2), atol=1e-11)
    null = torch.eye(4) - torch.linalg.pinv(MATRIX) @ MATRIX
    assert torch.allclose((got - ctx.data) @ null.T, torch.zeros(4, 4), atol=1e-11)


def test_mcg_ends_on_what_was_measured():
    plan = DDIM(1.0).plan(PROCESS, UniformT(20, start=0.98, end=0.0))
    found = steer(MODEL, plan, X, MCG(Measurement(Matrix(MATRIX), Y, 0.0), Residual(0.1)), noise=Addressed(1))
    assert torch.allclose(found.sample @ MATRIX.T, Y.expand(4, 2), atol=1e-10)


def test_greedy_is_adam_on_eps_and_keeps_the_best():
    ctx, _ = first_step(Spy(lambda ctx: None))
    got = Greedy(SEEN, steps=12, lr=0.1).data(ctx, ctx.data)
    eps = ((X - ctx.alpha * ctx.data) / ctx.sigma).requires_grad_()
    adam, best = torch.optim.Adam([eps], lr=0.1, betas=(0.5, 0.9)), torch.full((5, 4), torch.inf)
    for _ in range(13):
        data = (X - ctx.sigma * eps) / ctx.alpha
        loss = SEEN(data)
        best = torch.where(loss < best[0], torch.stack([loss, *data.T]), best).detach()
        adam.zero_grad()
        loss.sum().backward()
        adam.step()
    assert torch.allclose(got, best[1:].T, atol=1e-9)
    assert bool((SEEN(got) <= SEEN(ctx.data)).all()) and bool((SEEN(got) < 0.9 * SEEN(ctx.data)).any())


def test_reddiff_is_adam_on_mu():
    plan = DDIM().plan(PROCESS, UniformLambda(7, **ENDS))
    guide = REDdiff(SEEN.nats, weight=0.4, lr=0.05)
    draws = Addressed(3, stream=2)
    found = steer(MODEL, plan, X, guide, draws=draws)
    times = UniformLambda(7, **ENDS).times(PROCESS).tolist()
    x, mu = (
        X,
        PRIOR.denoise(X, float(PROCESS.alpha(times[0])), float(PROCESS.sigma(times[0]))).requires_grad_(),
    )
    adam = torch.optim.Adam([mu], lr=0.05, betas=(0.9, 0.99))
    for k, (t, s) in enumerate(zip(times[:-1], times[1:], strict=True)):
        a, b = float(PROCESS.alpha(t)), float(PROCESS.sigma(t))
        data = PRIOR.denoise(x, a, b)
        eps, e = (x - a * data) / b, (x - a * mu.detach()) / b
        adam.zero_grad()
        (SEEN.nats(mu).sum() + (0.4 * b / a * (eps - e) * mu).sum()).backward()
        adam.step()
        x = float(PROCESS.alpha(s)) * mu.detach() + float(PROCESS.sigma(s)) * draws(k << 40, X)
    assert torch.allclose(found.sample, x, atol=1e-8) and found.vjps == 0


def test_daps_draws_from_the_conjugate_posterior():
    """x0 ~ N(x0hat, r^2 I) p(y|x0), a Gaussian: mean and covariance over 20000 draws within five standard errors."""
    n = 20000
    plan = DDIM().plan(PROCESS, torch.tensor([0.5, 0.0], dtype=torch.float64))
    x = X[:1].expand(n, 4).clone()
    found = steer(MODEL, plan, x, DAPS(SEEN, 1, width=0.3), noise=None, draws=Addressed(5)).sample
    a, s = float(PROCESS.alpha(0.5)), float(PROCESS.sigma(0.5))
    law = Gaussian(PRIOR.denoise(X[:1], a, s)[0], (0.3 * s / a) ** 2).posterior(MATRIX, Y[0], 0.3)
    assert (
        float((found.mean(0) - law.means[0]).abs().max())
        < 5 * float(law.covs[0].diagonal().max().sqrt()) / n**0.5
    )
    assert (
        float((torch.cov(found.T) - law.covs[0]).abs().max())
        < 5 * float(law.covs[0].diagonal().max()) * (2 / n) ** 0.5
    )


# the family
# --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset, alone", [
    (TFG.dps(SEEN, Residual(0.3)), DPS(SEEN, Residual(0.3))),
    (TFG.lgd(SEEN.nats, 4, 0.7), LGD(SEEN.nats, 4, 0.7)),
    (TFG.mpgd(SEEN, Unit(0.2)), MPGD(SEEN, Unit(0.2))),
    (TFG.freedom(SEEN, ScoreRatio(0.1), 3), FreeDoM(SEEN, ScoreRatio(0.1), 3)),
    (TFG.universal(SEEN, Raw(0.1), Raw(0.05), 3, 2), Universal(SEEN, Raw(0.1), Raw(0.05), 3, 2)),
], ids=lambda g: type(g).__name__)  # fmt: skip
def test_presets_of_tfg_are_the_stand_alone_guides_bit_for_bit(preset, alone):
    one, other = (steer(MODEL, PLAN, X, g, noise=Addressed(4)) for g in (preset, alone))
    assert torch.equal(one.sample, other.sample) and torch.equal(one.losses, other.losses)
    assert (one.nfe, one.vjps) == (other.nfe, other.vjps)
    assert not torch.equal(one.sample, sample(MODEL, PLAN, X, noise=Addressed(4), gradient=None))
