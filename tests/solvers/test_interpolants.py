"""Two-sided interpolants against Gaussians and mixtures on both sides, whose velocity and score are known."""

import math
import pickle
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from pullback.adjoint import Checkpoint, Direct, Mechanism, sample
from pullback.solvers import (
    DDIM,
    FLOW,
    NOISE,
    SCORE,
    Addressed,
    ClassifierFree,
    Denoiser,
    FlowEuler,
    FlowHeun,
    FlowMidpoint,
    Gaussian,
    GivenNoise,
    Interpolant,
    Mixture,
    OwnNoise,
    RectifiedFlow,
    Rising,
    StochasticFlow,
    TwoHeads,
    UniformT,
    UserPair,
    convert,
    moments,
    run,
)


def alpha(t):
    return 1 - t


def beta(t):
    return t


def gamma(t):
    """sqrt(2 t (1 - t)): infinite slopes at both ends."""
    return (2 * t * (1 - t)).sqrt()


def round_gamma(t):
    return torch.sin(math.pi * t) ** 2


@dataclass(frozen=True)
class Bump:
    height: float

    def __call__(self, t):
        return self.height * t * (1 - t)


LINEAR = Interpolant(alpha, beta, gamma)
TRIG = Interpolant(lambda t: torch.cos(math.pi / 2 * t), lambda t: torch.sin(math.pi / 2 * t), round_gamma)
# covariances that do not commute, so that nothing reduces to one dimension
M0, M1 = torch.tensor([1.0, -0.5], dtype=torch.float64), torch.tensor([-0.7, 0.4], dtype=torch.float64)
C0 = torch.tensor([[0.5, 0.2], [0.2, 0.3]], dtype=torch.float64)
C1 = torch.tensor([[0.4, -0.25], [-0.25, 0.9]], dtype=torch.float64)


def weights(process, t):
    """alpha, beta, gamma^2 and their slopes, by finite differences: gamma' itself need not be finite."""
    h = 1e-6

    def at(t):
        t = torch.as_tensor(t, dtype=torch.float64)
        return torch.stack([process.alpha(t), process.beta(t), process.gamma(t) ** 2])

    low, high = max(t - h, 0.0), min(t + h, 1.0)
    return at(t), (at(high) - at(low)) / (high - low)


def law(process, t):
    """(mean, covariance) of x_t."""
    (a, b, g2), _ = weights(process, t)
    return a * M0 + b * M1, a**2 * C0 + b**2 * C1 + g2 * torch.eye(2)


class Heads(nn.Module):
    """Exact (u, E[z]) of Gaussians on both sides: u = m' + S'/2 S^-1 (x - m), E[z] = gamma S^-1 (x - m)."""

    def __init__(self, process, second=NOISE):
        super().__init__()
        self.process, self.second = process, second
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, x, t, shift=0.0):
        t = float(t[0])
        (a, b, g2), (da, db, dg2) = weights(self.process, t)
        mean, cov = law(self.process, t)
        half = a * da * C0 + b * db * C1 + dg2 / 2 * torch.eye(2)
        white = torch.linalg.solve(cov, (x - mean).T).T
        u = da * M0 + db * M1 + white @ half
        return self.gain * u + shift, (-white if self.second == SCORE else g2.sqrt() * white)


def affine(model, plan):
    """(A, c, Q) of the sample A x + c + noise of covariance Q: every step is affine, so a basis tells all."""
    slots, d = max(plan.slots, 1), 2
    x = torch.cat([torch.zeros(1, d), torch.eye(d), torch.zeros(slots * d, d)])
    noise = torch.zeros(slots, len(x), d)
    for k in range(slots):
        noise[k, 1 + d + k * d : 1 + d + (k + 1) * d] = torch.eye(d)
    with torch.no_grad():
        out = run(model, plan, x, noise=GivenNoise(noise) if plan.slots else None)
    spread = (out[1 + d :] - out[0]).reshape(slots, d, d)
    return (out[1 : 1 + d] - out[0]).T, out[0], sum(s.T @ s for s in spread)


def error(process, method, n, ends, second=NOISE):
    """Of the mean and covariance at the other end."""
    model = TwoHeads(Heads(process, second), process, second)
    grid = UniformT(n, *ends)
    plan = method.plan(process, Rising(grid) if ends[0] < ends[1] else grid)
    a, c, q = affine(model.on(plan), plan)
    (m, s), (mean, cov) = law(process, ends[0]), law(process, ends[1])
    return max(float((a @ m + c - mean).abs().max()), float((a @ s @ a.T + q - cov).abs().max()))


def test_velocity_and_score_are_what_they_are_called():
    """E[rate | x] and grad log p of drawn pairs, through regressions on x: Gaussian, so linear ones are exact."""
    generator = torch.Generator().manual_seed(0)
    n, t = 60_000, 0.3
    x0, x1 = Gaussian(M0, C0).sample(n, generator), Gaussian(M1, C1).sample(n, generator)
    z = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    for process in (LINEAR, TRIG):
        x, rate = process.between(x0, x1, z, torch.full((n,), t, dtype=torch.float64))
        u, eta = Heads(process)(x, torch.full((n,), t))
        columns = torch.cat([x, torch.ones(n, 1)], 1)
        for wanted, got in ((rate, u), (z, eta)):
            assert ((columns.T @ (wanted - got)) / n).abs().max() < 0.03  # the residual is orthogonal to x
        mean, cov = law(process, t)
        assert torch.allclose(x.mean(0), mean, atol=0.02) and torch.allclose(torch.cov(x.T), cov, atol=0.03)
        score = torch.distributions.MultivariateNormal(mean, cov)
        at = x[:3].detach().requires_grad_()
        (wanted,) = torch.autograd.grad(score.log_prob(at).sum(), at)
        assert torch.allclose(-eta[:3] / process.gamma(t), wanted, rtol=1e-8)


@pytest.mark.parametrize("process", [LINEAR, TRIG], ids=["linear", "trigonometric"])
@pytest.mark.parametrize("ends", [(1.0, 0.0), (0.0, 1.0)], ids=["to data", "to base"])
@pytest.mark.parametrize("method", [FlowEuler(), FlowMidpoint(), FlowHeun()], ids=str)
def test_the_flow_carries_one_law_to_the_other(process, ends, method):
    """From end to end, gamma' infinite and all, at the method's own order; the midpoint's third on the linear one is
    Gaussians' alone.
    """
    errors = [error(process, method, n, ends) for n in (40, 80)]
    slope = 3 if process is LINEAR and method == FlowMidpoint() else method.order
    assert errors[1] < (0.07 if method.order == 1 else 4e-3)
    assert math.log2(errors[0] / errors[1]) == pytest.approx(slope, abs=0.2)


STRENGTHS = [0.3, Bump(2.0), lambda t: 0.5 * (1 - t)]


@pytest.mark.parametrize("ends", [(0.9, 0.1), (0.1, 0.9)], ids=["to data", "to base"])
@pytest.mark.parametrize("strength", STRENGTHS, ids=["constant", "bump", "falling"])
def test_every_strength_keeps_the_marginals(strength, ends):
    """Weak order 1, from either head: E[z] one way, the score the other."""
    second = NOISE if ends[0] > ends[1] else SCORE
    errors = [error(TRIG, StochasticFlow(strength), n, ends, second) for n in (60, 120)]
    assert errors[1] < 0.03 and math.log2(errors[0] / errors[1]) == pytest.approx(1.0, abs=0.15)


def test_a_strength_that_vanishes_with_gamma_runs_from_end_to_end():
    """gamma sin(pi t)-like eps on the linear interpolant, which has no noise at its ends."""
    errors = [error(LINEAR, StochasticFlow(Bump(1.0)), n, (1.0, 0.0)) for n in (60, 120)]
    assert errors[1] < 0.03 and math.log2(errors[0] / errors[1]) == pytest.approx(1.0, abs=0.15)


def test_from_samples_of_any_base():
    """Two mixtures on the line: the flow is monotone, so every sample keeps its quantile. No Gaussian anywhere."""
    generator = torch.Generator().manual_seed(1)
    sides = [
        Mixture.isotropic(torch.tensor([0.5, 0.5]), torch.tensor([[-2.0], [1.0]]), torch.tensor([0.3, 0.5])),
        Mixture.isotropic(
            torch.tensor([0.2, 0.3, 0.5]), torch.tensor([[-1.0], [0.2], [2.0]]), torch.tensor([0.4] * 3)
        ),
    ]
    w0, w1 = (side.weights for side in sides)
    m0, m1 = (side.means[:, 0] for side in sides)
    v0, v1 = (side.spread**2 for side in sides)

    def components(t):
        """Weights, means and variances of x_t with their slopes: pairs of components, which are independent."""
        (a, b, g2), (da, db, dg2) = weights(TRIG, t)
        pair = [torch.cartesian_prod(p, q).unbind(1) for p, q in ((w0, w1), (m0, m1), (v0, v1))]
        (p, q), (x, y), (v, w) = pair
        return (
            p * q,
            a * x + b * y,
            a**2 * v + b**2 * w + g2,
            da * x + db * y,
            a * da * v + b * db * w + dg2 / 2,
        )

    def velocity(x, t):
        p, m, s, dm, half = components(float(t[0]))
        share = (p.log() - 0.5 * s.log() - (x - m) ** 2 / (2 * s)).softmax(1)
        return (share * (dm + half / s * (x - m))).sum(1, keepdim=True)

    def quantile(x, t):
        p, m, s, *_ = components(t)
        return (p * torch.special.ndtr((x - m) / s.sqrt())).sum(1)

    x1 = sides[1].sample(200, generator)
    model = Denoiser(velocity, TRIG, FLOW)
    worst = []
    for n in (40, 80):
        out = sample(model, FlowHeun().plan(TRIG, UniformT(n)), x1, gradient=None)
        worst.append(float((quantile(out, 0.0) - quantile(x1, 1.0)).abs().max()))
    assert worst[1] < 2e-3 and math.log2(worst[0] / worst[1]) > 1.7


def test_with_a_gaussian_base_it_is_the_users_pair():
    """beta x_1 + gamma z is noise of deviation sqrt(beta^2 + gamma^2): the same drift, the same run."""
    pair = UserPair(alpha, lambda t: (t**2 + gamma(t) ** 2).sqrt(), 0.0, 1.0)
    mixture = Mixture.isotropic(torch.tensor([0.5, 0.5]), torch.tensor([[1.0, 0.0], [-1.0, 0.5]]), 0.3)
    one = mixture.denoiser(pair)

    def heads(x, t):
        data, eps = mixture.data_and_noise(x, pair.alpha(t), pair.sigma(t))
        u = pair.d_alpha(t)[:, None] * data + pair.d_sigma(t)[:, None] * eps
        return u, (LINEAR.gamma(t) / pair.sigma(t))[:, None] * eps

    x = torch.randn(5, 2)
    for strength, ends in ((0.3, (0.9, 0.1)), (Bump(1.0), (0.1, 0.9))):
        grid = UniformT(9, *ends)
        plans = [
            StochasticFlow(strength).plan(p, Rising(grid) if ends[0] < ends[1] else grid)
            for p in (pair, LINEAR)
        ]
        left = run(one, plans[0], x, noise=Addressed(3))
        right = run(TwoHeads(heads, LINEAR).on(plans[1]), plans[1], x, noise=Addressed(3))
        assert torch.allclose(left, right, rtol=1e-12, atol=1e-12)
    grid = UniformT(9, 0.9, 0.1)
    left = run(one, FlowHeun().plan(pair, grid), x)
    right = run(TwoHeads(heads, LINEAR), FlowHeun().plan(LINEAR, grid), x)
    assert torch.allclose(left, right, rtol=1e-12, atol=1e-12)
    assert convert(x, x, FLOW, FLOW, LINEAR, 0.5) is not None


@pytest.mark.parametrize(
    "gradient", [Checkpoint(), Checkpoint(mechanism=Mechanism.REGION), Checkpoint(recursive=True)], ids=str
)
def test_exact_strategies(gradient):
    """Gradients at the start, conditioning and the network, through both heads."""
    network = nn.Sequential(nn.Linear(3, 12), nn.SiLU(), nn.Linear(12, 4))

    def heads(x, t, cond):
        return network(torch.cat([x + cond, t[:, None]], 1)).chunk(2, 1)

    model = TwoHeads(heads, LINEAR)
    plan = StochasticFlow(Bump(0.7)).plan(LINEAR, UniformT(5))
    x, cond = torch.randn(4, 2, requires_grad=True), torch.randn(2, requires_grad=True)
    inputs = [x, cond, *model.parameters()]
    assert len(inputs) == 6
    got, want = (
        torch.autograd.grad(
            sample(model.on(plan), plan, x, cond=cond, noise=Addressed(0), gradient=g).square().sum(), inputs
        )
        for g in (gradient, Direct())
    )
    assert all(torch.allclose(a, b, rtol=1e-10, atol=1e-12) for a, b in zip(got, want, strict=True))


def test_labels_precision_and_guidance_go_through_both_heads():
    def heads(x, t, shift=0.0):
        assert x.dtype == torch.bfloat16 and t.dtype == torch.float32
        return x, x * t[:, None].to(x) / 10 + shift

    model = TwoHeads(heads, TRIG, SCORE, torch.bfloat16, label=lambda t, process: 10 * t)
    plan = StochasticFlow(0.5).plan(TRIG, [0.8, 0.6])
    x = torch.full((2, 3), 0.5, dtype=torch.float32)
    noise = torch.zeros(1, 2, 3, dtype=torch.float32)
    out = run(model.on(plan), plan, x, noise=GivenNoise(noise))
    assert out.dtype == torch.float32
    assert torch.allclose(out, x - 0.2 * (x - 0.5 * 0.8 * x), rtol=1e-2)
    guided = ClassifierFree(model.on(plan), 2.0, null=torch.tensor(0.0))
    assert torch.allclose(
        run(guided, plan, x, cond=torch.tensor(1.0), noise=GivenNoise(noise)), out + 0.2 * 0.5 * 2, rtol=1e-2
    )


def test_between_is_differentiable_and_modules_are_declared_to_both():
    x0, x1, z = (torch.randn(2, 3).requires_grad_() for _ in range(3))
    state, rate = LINEAR.between(x0, x1, z, torch.full((2,), 0.3))
    grads = torch.autograd.grad((state + 10 * rate).sum(), [x0, x1, z])
    (a, b, g2), (da, db, dg2) = weights(LINEAR, 0.3)
    g = math.sqrt(g2)
    for grad, wanted in zip(grads, (a + 10 * da, b + 10 * db, g + 10 * dg2 / (2 * g)), strict=True):
        assert torch.allclose(grad, torch.full_like(grad, float(wanted)))
    hidden = nn.Linear(2, 2)
    model = TwoHeads(lambda x, t: (x, x), LINEAR, modules=[hidden])
    plan = StochasticFlow(Bump(1.0)).plan(LINEAR, UniformT(3))
    assert hidden in list(model.networks()) and hidden in list(model.on(plan).networks())


def test_plans_pickle_and_print():
    plan = StochasticFlow(Bump(1.0)).plan(LINEAR, UniformT(3))
    assert pickle.loads(pickle.dumps(plan)) == plan and "DRIFT" in str(plan)


HEADS = TwoHeads(Heads(LINEAR), LINEAR)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: run(HEADS, DDIM().plan(LINEAR, UniformT(4)), torch.zeros(1, 2)), "asked for sigma"),
        (
            lambda: run(
                HEADS, StochasticFlow(0.1).plan(LINEAR, [0.9, 0.1]), torch.zeros(1, 2), noise=Addressed(0)
            ),
            r"asked for sigma.*TwoHeads\(...\).on\(plan\)",
        ),
        (
            lambda: HEADS.on(StochasticFlow(0.1).plan(LINEAR, UniformT(4))),
            "strength 0.1 at t=1, where gamma = 0",
        ),
        (lambda: HEADS.on(StochasticFlow(0.1).plan(TRIG, [0.9, 0.1])), "compile the plan with model.process"),
        (
            lambda: HEADS.on(DDIM().plan(RectifiedFlow(), UniformT(4))),
            "expected a flow method or StochasticFlow",
        ),
        (lambda: StochasticFlow(OwnNoise()).plan(LINEAR, [0.9, 0.1]), "asked for sigma"),
        (lambda: moments(FlowEuler().plan(LINEAR, UniformT(4)), 0.0, 1.0, 0.0, 1.0), "asked for sigma"),
        (lambda: TwoHeads(Heads(LINEAR), LINEAR, FLOW), "second: got"),
        (
            lambda: TwoHeads(lambda x, t: x, TRIG).on(StochasticFlow(0.1).plan(TRIG, [0.9, 0.1]))(
                torch.zeros(1, 2), torch.full((1,), 0.9)
            ),
            r"got a tensor \(1, 2\).*expected a pair \(u, NOISE\)",
        ),
    ],
)
def test_refusals(make, words):
    with pytest.raises(ValueError, match=words):
        make()
