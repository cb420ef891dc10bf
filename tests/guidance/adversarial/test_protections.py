"""Protections of an image, each against the optimum in its ball where that is known in closed form."""

import pytest
import torch
from problems import PROCESS

from pullback.adjoint import Checkpoint
from pullback.guidance import (
    L2,
    AdvDM,
    AutoStep,
    DiffusionGuard,
    Expectation,
    Linf,
    Mist,
    PhotoGuardDiffusion,
    PhotoGuardEncoder,
    ScoreDistillation,
    pgd,
    purify,
)
from pullback.solvers import (
    DDIM,
    FLOW,
    NOISE,
    Addressed,
    Denoiser,
    Gaussian,
    RectifiedFlow,
    UniformLambda,
    convert,
)

S2, MEAN, TIME = 0.6, torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64), 0.45
NOISE_SEEN = Addressed(7)
CENTRE = torch.tensor([[1.0, 0.2, -0.5], [0.1, -1.2, 0.7]], dtype=torch.float64)


def model(process, prediction):
    """The exact denoiser of N(MEAN, S2 I) as a network of any prediction."""
    exact = Gaussian(MEAN, S2 * torch.eye(3, dtype=torch.float64)).denoiser(process)

    def network(x, t, cond=None):
        out = exact(x, t, cond)
        return out if cond is not None else convert(out, x, exact.prediction, prediction, process, t)

    return exact if prediction is None else Denoiser(network, process, prediction)


def levels(process, t=TIME):
    return float(process.alpha(torch.tensor(t))), float(process.sigma(torch.tensor(t)))


def eps(like):
    return NOISE_SEEN(0, like)


def nearest(ball, point, centre):
    """Of an isotropic quadratic with its minimum at `point`."""
    change = point - centre
    if isinstance(ball, Linf):
        return centre + change.clip(-ball.radius, ball.radius)
    return centre + change * (ball.radius / change.norm(dim=1, keepdim=True)).clamp(max=1)


def furthest(ball, point, centre):
    away = centre - point
    if isinstance(ball, Linf):
        return centre + ball.radius * away.sign()
    return centre + ball.radius * away / away.norm(dim=1, keepdim=True)


def best_in_ball(h, b, radius):
    """min d^T h d / 2 + b^T d over |d| <= radius: (h + l) d = -b with l >= 0 such that |d| = radius, by bisection."""
    values, vectors = torch.linalg.eigh(h)
    c = vectors.T @ b
    low = max(0.0, -float(values[0]))
    if values[0] > 0 and float((c / values).norm()) <= radius:
        return -vectors @ (c / values)
    high = low + float(c.norm()) / radius + float(values.abs().max())
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if float((c / (values + middle)).norm()) > radius else (low, middle)
    return -vectors @ (c / (values + high))


def optimum(protection, ball, steps=80):
    """By pgd under one draw of noise, the same at each step."""
    found = pgd(lambda x: protection(x, NOISE_SEEN), CENTRE, ball, steps=steps, stepping=AutoStep())
    return found.points[0]


BALLS = pytest.mark.parametrize("ball", [Linf(0.15), L2(0.25)], ids=str)


def test_the_encoder_attack_on_a_linear_encoder():
    """|A (c + d) - z|^2 in an L2 ball is a trust-region problem; in a cube, with A diagonal, a clamp."""
    a, target = torch.randn(4, 3), torch.randn(2, 4)
    points = optimum(PhotoGuardEncoder(lambda x: x @ a.T, target), L2(0.25))
    for point, centre, z in zip(points, CENTRE, target, strict=True):
        best = best_in_ball(2 * a.T @ a, 2 * a.T @ (a @ centre - z), 0.25)
        assert torch.allclose(point - centre, best, atol=2e-3)
    scale, target = torch.tensor([1.5, -0.4, 2.0]), torch.randn(2, 3)
    points = optimum(PhotoGuardEncoder(lambda x: scale * x, target), Linf(0.15))
    assert torch.allclose(points, nearest(Linf(0.15), target / scale, CENTRE), atol=2e-3)


@BALLS
def test_the_diffusion_attack_on_a_gaussian(ball):
    """Every DDIM step on isotropic Gaussian data is r x + shift, so the editor is, and the optimum is a projection."""
    plan = DDIM().plan(PROCESS, UniformLambda(4, start=0.4, end=0.05))
    exact, target = model(PROCESS, None), torch.randn(2, 3)
    seen = [levels(PROCESS, t) for t in torch.tensor(plan.times).tolist()]
    whole = PhotoGuardDiffusion(
        lambda x, noise: purify(exact, plan, x, noise.initial(x), gradient=Checkpoint()), target
    )
    gain, state = seen[0][0], seen[0][0] * (CENTRE - MEAN) + seen[0][1] * NOISE_SEEN.initial(CENTRE)
    for (a, s), (b, u) in zip(seen, seen[1:], strict=False):
        k = a * S2 / (a**2 * S2 + s**2)
        r = b * k + u * (1 - a * k) / s
        gain, state = gain * r, r * state
    out = state + seen[-1][0] * MEAN
    assert torch.allclose(whole(CENTRE.clone().requires_grad_(), NOISE_SEEN), (out - target).square().sum(1))
    best = nearest(ball, CENTRE + (target - out) / gain, CENTRE)
    assert torch.allclose(optimum(whole, ball, steps=40), best, atol=4e-3)


PARAMETRISED = pytest.mark.parametrize(
    "process, prediction", [(PROCESS, NOISE), (RectifiedFlow(), FLOW)], ids=["diffusion", "flow"]
)


@BALLS
@PARAMETRISED
def test_the_denoising_loss_of_a_gaussian(ball, process, prediction):
    """eps_hat - eps = (sigma alpha/S) (x - m - (alpha S2/sigma) eps): AdvDM's best is furthest from a known point."""
    a, s = levels(process)
    total = a**2 * S2 + s**2
    protection = AdvDM(model(process, prediction), (TIME, TIME))
    point = MEAN + a * S2 / s * eps(CENTRE)
    value = (s * a / total) ** 2 * (CENTRE - point).square().sum(1)
    assert torch.allclose(protection(CENTRE, NOISE_SEEN), -value)
    assert torch.allclose(optimum(protection, ball), furthest(ball, point, CENTRE), atol=2e-3)


@BALLS
@PARAMETRISED
def test_score_distillation_has_the_value_and_leaves_the_jacobian_out(ball, process, prediction):
    a, s = levels(process)
    k = a * S2 / (a**2 * S2 + s**2)
    net = model(process, prediction)
    image = CENTRE.clone().requires_grad_()
    data = MEAN + k * (a * (CENTRE - MEAN) + s * eps(CENTRE))
    for scale in (1.0, -1.0):
        protection = ScoreDistillation(net, (TIME, TIME), scale=scale)
        value = protection(image, NOISE_SEEN)
        assert torch.allclose(value, scale * AdvDM(net, (TIME, TIME))(CENTRE, NOISE_SEEN))
        (slope,) = torch.autograd.grad(value.sum(), image)
        assert torch.allclose(slope, -scale * 2 * (a / s) ** 2 * (CENTRE - data))
    # where x = D(z_t); the held gradient points there, or away from it
    still = MEAN + k * s / (1 - k * a) * eps(CENTRE)
    away, towards = (ScoreDistillation(net, (TIME, TIME), scale=scale) for scale in (1.0, -1.0))
    assert torch.allclose(optimum(away, ball), furthest(ball, still, CENTRE), atol=2e-3)
    assert torch.allclose(optimum(towards, ball), nearest(ball, still, CENTRE), atol=2e-3)


def test_mist_is_both_at_once():
    """With a linear encoder a quadratic form in the change, convex or not by its weight."""
    matrix, target = torch.randn(3, 3), torch.randn(2, 3)
    a, s = levels(PROCESS)
    share = (s * a / (a**2 * S2 + s**2)) ** 2
    point = MEAN + a * S2 / s * eps(CENTRE)
    for weight in (0.5, 12.0):
        mist = Mist(lambda x: x @ matrix.T, target, model(PROCESS, NOISE), (TIME, TIME), weight=weight)
        points = optimum(mist, L2(0.25), steps=120)
        assert (1 - weight * share > 0) == (weight < 1)
        for got, centre, z, far in zip(points, CENTRE, target, point, strict=True):
            h = 2 * (1 - weight * share) * matrix.T @ matrix
            b = 2 * matrix.T @ ((matrix @ centre - z) - weight * share * (matrix @ centre - far))
            best = best_in_ball(h, b, 0.25)
            value = [float(d @ h @ d / 2 + b @ d) for d in (got - centre, best)]
            assert value[0] == pytest.approx(value[1], rel=1e-3)


@BALLS
def test_diffusion_guard_maximises_the_early_prediction(ball):
    """A condition shifts the mean: eps_hat = (sigma alpha/S) ((1 - M) x - m + (sigma/alpha) eps), M the mask."""
    early = 0.9
    a, s = levels(PROCESS, early)
    mask = torch.tensor([1.0, 0.0, 0.0])
    exact = model(PROCESS, None)
    protection = DiffusionGuard(exact, early, lambda x, noise: mask * x)
    still = MEAN - s / a * eps(CENTRE)
    value = (s * a / (a**2 * S2 + s**2)) ** 2 * ((1 - mask) * CENTRE - still).square().sum(1)
    assert torch.allclose(protection(CENTRE, NOISE_SEEN), -value)
    free = (
        CENTRE[:, 1:]
        + ball.radius * (furthest(ball, still[:, 1:], CENTRE[:, 1:]) - CENTRE[:, 1:]) / ball.radius
    )
    assert torch.allclose(optimum(protection, ball)[:, 1:], free, atol=2e-3)


def test_masks_and_times_are_drawn_by_sample_and_averaged():
    """A mask from the noise's spare slots, times over a range: every draw another, none from a batch mate."""

    def drawn(x, noise):
        return (noise(2, x) > 0).to(x) * x

    net = model(PROCESS, None)
    for protection in (DiffusionGuard(net, 0.9, drawn), AdvDM(net, (0.2, 0.8))):
        whole = pgd(Expectation(protection, 4, Addressed(2)), CENTRE, Linf(0.1), steps=4).points[0]
        alone = pgd(
            Expectation(protection, 4, Addressed(2, samples=[1])), CENTRE[1:], Linf(0.1), steps=4
        ).points[0]
        assert torch.allclose(whole[1], alone[0], atol=1e-12)
        values = {round(float(protection(CENTRE, Addressed(2, stream=k))[0]), 9) for k in range(5)}
        assert len(values) == 5
