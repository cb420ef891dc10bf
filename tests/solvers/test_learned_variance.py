"""DDPM with learned variances: Nichol and Dhariwal's step by hand, under every exact strategy; what is refused."""

import pickle

import pytest
import torch
from problems import MIXTURE, PROCESS, warped
from torch import nn

from pullback.adjoint import Checkpoint, Direct, PerStep, Reversible, Truncated, audit, sample
from pullback.guidance import MPGD, steer
from pullback.solvers import (
    DATA,
    DDIM,
    DDPM,
    NOISE,
    Addressed,
    Clamp,
    ClassifierFree,
    Denoiser,
    GivenNoise,
    Guided,
    Keywords,
    LearnedVariance,
    OnData,
    Passes,
    PosteriorVariance,
    RectifiedFlow,
    Scaled,
    Transitions,
    UniformT,
    expand,
    moments,
    recover_noise,
    run,
)

LEARNED = DDPM(PosteriorVariance.LEARNED)
GRID = PROCESS.time(warped(6))


class Network(nn.Module):
    """eps and v, two channels each of (B, 2, 3)."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv1d(2, 8, 1), nn.Tanh(), nn.Conv1d(8, 4, 1))

    def forward(self, x, t, cond=None):
        return self.body(x + t[:, None, None] + (0 if cond is None else cond))


def by_hand(network, x, draws, fn=lambda data: data):
    """Sigma = exp(u log beta + (1 - u) log beta'), u = (v + 1)/2, with the betas of the grid's own steps."""
    alpha, sigma = PROCESS.alpha(GRID), PROCESS.sigma(GRID)
    for i in range(len(GRID) - 1):
        eps, v = network(x, GRID[i].expand(len(x))).chunk(2, 1)
        ratio = (alpha[i] / alpha[i + 1]) ** 2
        beta = 1 - ratio
        small = beta * sigma[i + 1] ** 2 / sigma[i] ** 2
        data = fn((x - sigma[i] * eps) / alpha[i])
        mean = (ratio.sqrt() * sigma[i + 1] ** 2 * x + alpha[i + 1] * beta * data) / sigma[i] ** 2
        u = (v + 1) / 2
        x = mean + (u * beta.log() + (1 - u) * small.log()).exp().sqrt() * draws[i]
    return x


@pytest.mark.parametrize("fn", [None, Clamp(-0.7, 0.7)], ids=str)
@pytest.mark.parametrize(
    "strategy", [Direct(), Checkpoint(), Checkpoint(offload=True), Truncated(9)], ids=str
)
def test_value_and_gradients_are_the_papers(strategy, fn):
    network, x = Network(), torch.randn(4, 2, 3, requires_grad=True)
    draws = torch.randn(6, 4, 2, 3, requires_grad=True)
    method = LEARNED if fn is None else OnData(LEARNED, fn)
    plan = method.plan(PROCESS, GRID)
    assert (plan.nfe, plan.slots) == (6, 6) and pickle.loads(pickle.dumps(plan)) == plan
    got = sample(LearnedVariance(network, PROCESS, NOISE), plan, x, noise=draws, gradient=strategy)
    want = by_hand(network, x, draws, fn or (lambda data: data))
    assert torch.allclose(got, want, atol=1e-12)
    inputs = [x, draws, *network.parameters()]
    grads = [torch.autograd.grad(out.square().sum(), inputs) for out in (got, want)]
    for a, b in zip(*grads, strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)


def test_conditioning_of_each_step_and_grids_for_each_sample():
    network, x, draws = Network(), torch.randn(2, 2, 3), torch.randn(6, 2, 2, 3)
    model = LearnedVariance(network, PROCESS, NOISE)
    grids = torch.stack([PROCESS.time(warped(6, -2.0 - b)) for b in range(2)], 1)
    cond = torch.randn(6, 2, 2, 3, requires_grad=True)
    out = sample(model, LEARNED.plan(PROCESS, GRID), x, cond=PerStep(cond), noise=draws)
    (gradient,) = torch.autograd.grad(out.sum(), cond)
    assert bool((gradient.flatten(1).abs().sum(1) > 0).all())
    together = run(model, LEARNED.plan(PROCESS, grids), x, noise=GivenNoise(draws))
    for b in range(2):
        plan, own = LEARNED.plan(PROCESS, grids[:, b]), GivenNoise(draws[:, b : b + 1])
        assert torch.allclose(run(model, plan, x[b : b + 1], noise=own), together[b : b + 1], atol=1e-12)


@pytest.mark.parametrize("v, variance", [(-1.0, PosteriorVariance.SMALL), (1.0, PosteriorVariance.LARGE)])
@pytest.mark.parametrize("process", [PROCESS, RectifiedFlow()], ids=str)
def test_its_ends_are_the_fixed_variances(process, v, variance):
    exact = MIXTURE.denoiser(process)
    model = LearnedVariance(lambda x, t: torch.cat([exact(x, t), torch.full_like(x, v)], 1), process, DATA)
    for grid in (UniformT(5), UniformT(1), UniformT(4, end=0.1)):
        x, draws = torch.randn(3, 2), torch.randn(5, 3, 2)
        got, want = (
            run(m, method.plan(process, grid), x, noise=GivenNoise(draws))
            for m, method in ((model, LEARNED), (exact, DDPM(variance)))
        )
        assert torch.allclose(got, want, atol=1e-12)


def test_other_plans_see_the_prediction_alone():
    network, x = Network(), torch.randn(3, 2, 3)
    both = LearnedVariance(network, PROCESS, NOISE)
    alone = Denoiser(lambda x, t: network(x, t)[:, :2], PROCESS, NOISE)
    plan = DDIM().plan(PROCESS, GRID)
    assert torch.equal(run(both, plan, x), run(alone, plan, x))


def test_what_is_refused():
    plan, x = LEARNED.plan(PROCESS, GRID), torch.randn(3, 2, requires_grad=True)
    exact = MIXTURE.denoiser(PROCESS)
    with pytest.raises(ValueError, match="got a model that predicts no variance, expected a LearnedVariance"):
        sample(exact, plan, x, noise=Addressed(0))
    model = LearnedVariance(lambda x, t: torch.cat([exact(x, t), x], 1), PROCESS, DATA)
    for asked in (
        lambda: Transitions(plan),
        lambda: moments(plan, 0.0, 1.0, 0.0, 1.0),
        lambda: expand(plan),
        plan.inverse,
        lambda: sample(model, plan, x, noise=Addressed(0), gradient=Reversible()),
        lambda: recover_noise(model, plan, x.detach(), noise=Addressed(0)),
    ):
        with pytest.raises(ValueError, match="Apply|draw in step 0"):
            asked()
    with pytest.raises(ValueError, match="a network call of which it takes two results"):
        steer(model, plan, x.detach(), MPGD(lambda x: x.square().sum(1)), noise=Addressed(0))
    short = LearnedVariance(lambda x, t: exact(x, t), PROCESS, DATA)
    with pytest.raises(ValueError, match=r"got shape \(3, 2\), expected \(3, 4\)"):
        sample(short, plan, x, noise=Addressed(0))


def test_another_network_keeps_its_variance():
    first, second, x = Network(), Network(), torch.randn(3, 2, 3)
    model = LearnedVariance(first, PROCESS, NOISE, call=Keywords(), label=Scaled(9.0)).around(second)
    want = LearnedVariance(second, PROCESS, NOISE, call=Keywords(), label=Scaled(9.0))
    plan, draws = LEARNED.plan(PROCESS, GRID), torch.randn(6, 3, 2, 3)
    got, wanted = (sample(each, plan, x, noise=draws) for each in (model, want))
    assert torch.equal(got, wanted)


@pytest.mark.parametrize("strategy", [Direct(), Checkpoint()], ids=str)
@pytest.mark.parametrize("passes", Passes)
def test_under_guidance_the_variance_is_the_conditional_half_s(passes, strategy):
    """As DiT and ADM sample: eps extrapolated, v of the call with conditioning."""
    network, null = Network(), torch.zeros(2, 3)
    x, cond = torch.randn(4, 2, 3, requires_grad=True), torch.randn(4, 2, 3, requires_grad=True)
    draws = torch.randn(6, 4, 2, 3, requires_grad=True)
    scales = (1 + torch.rand(6, 4)).requires_grad_()
    calls = iter(scales)

    def guided(x, t):
        (without, _), (eps, v) = (network(x, t, c).chunk(2, 1) for c in (null, cond))
        return torch.cat([without + next(calls)[:, None, None] * (eps - without), v], 1)

    want = by_hand(guided, x, draws)
    model = ClassifierFree(LearnedVariance(network, PROCESS, NOISE), 7.0, null, passes)
    plan = LEARNED.plan(PROCESS, GRID)
    given = Guided(cond, PerStep(scales))
    got = sample(model, plan, x, cond=given, noise=draws, gradient=strategy)
    assert torch.allclose(got, want, atol=1e-12)
    inputs = [x, draws, cond, scales, *network.parameters()]
    grads = [torch.autograd.grad(out.square().sum(), inputs) for out in (got, want)]
    for a, b in zip(*grads, strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)


def test_guidance_of_a_model_without_variance_is_refused_as_before():
    model = ClassifierFree(Denoiser(lambda x, t, c: x, PROCESS, NOISE), 2.0, torch.zeros(2))
    with pytest.raises(ValueError, match="got a model that predicts no variance, expected a LearnedVariance"):
        sample(
            model, LEARNED.plan(PROCESS, GRID), torch.randn(3, 2), cond=torch.zeros(3, 2), noise=Addressed(0)
        )


def test_a_lost_sample_and_an_audit():
    """What stands around the model for a while says its variance too."""
    network, x, draws = Network(), torch.randn(3, 2, 3), torch.randn(6, 3, 2, 3)
    model, plan = LearnedVariance(network, PROCESS, NOISE), LEARNED.plan(PROCESS, GRID)
    broken = x.clone()
    broken[1] = torch.nan
    with pytest.warns(RuntimeWarning, match=r"not finite for samples \[1\]"):
        kept = sample(model, plan, broken, noise=draws, keep_finite=True)
    assert torch.allclose(kept[[0, 2]], sample(model, plan, x, noise=draws)[[0, 2]], atol=1e-12)
    found = audit(model, plan, x, lambda x: x.square().sum(), {"checkpoint": Checkpoint()}, noise=draws)
    assert float(found.rows[0].error) < 1e-10
