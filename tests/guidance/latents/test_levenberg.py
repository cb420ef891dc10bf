"""Levenberg-Marquardt through a sampler: its steps against dense algebra, its optima against closed forms."""

from dataclasses import replace

import pytest
import torch
from problems import PROCESS
from torch import Tensor

from pullback.adjoint import Checkpoint, Continuous, Direct, DoubleBackward, Reversible, Truncated, sample
from pullback.guidance import (
    BlackBox,
    ChiPrior,
    LeastSquares,
    Matrix,
    Measurement,
    NormPrior,
    Over,
    Stop,
    adam,
    lbfgs,
    levenberg,
    optimise,
)
from pullback.guidance.latents.krylov import Krylov
from pullback.guidance.latents.priors import Priors
from pullback.solvers import (
    DDPM,
    Addressed,
    Denoiser,
    DPMSolverPP,
    Gaussian,
    Mixture,
    ReversibleHeun,
    UniformT,
    V,
)

GRID = UniformT(4, start=0.95, end=0.05)
PLAN = DPMSolverPP(2).plan(PROCESS, GRID)


def law(d=5):
    root = torch.randn(d, d, generator=torch.Generator().manual_seed(1)) / 2
    return Gaussian(
        torch.randn(d, generator=torch.Generator().manual_seed(2)), root @ root.T + 0.1 * torch.eye(d)
    )


def mixture(d=5):
    g = torch.Generator().manual_seed(3)
    return Mixture.isotropic(
        torch.full((3,), 1 / 3), torch.randn(3, d, generator=g), torch.tensor([0.3, 0.5, 0.6])
    )


def seen(batch=3, d=5):
    return Measurement(Matrix(torch.randn(3, d)), torch.randn(batch, 3), 0.2)


def run(model, loss, x, **more):
    return optimise(
        model, more.pop("plan", PLAN), loss, x, progress=False, **{"optimiser": levenberg(), **more}
    )


# the step -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("indefinite", [False, True])
def test_the_step_solves_its_region(indefinite):
    """Against the secular equation in all dimensions; another radius costs no product."""
    b, d = 4, 6
    root = torch.randn(b, d, d)
    a = root @ root.mT + (-4 if indefinite else 0.1) * torch.eye(d)
    g, calls = torch.randn(b, d), []

    def product(v):
        calls.append(1)
        return (a @ v[:, :, None])[:, :, 0]

    space = Krylov(product, g, torch.ones(b), torch.ones(b, dtype=torch.bool), forcing=0.0, most=d)
    assert len(calls) == space.products == d
    for radius in (0.05, 0.5, 50.0):
        p, less = space.step(torch.full((b,), radius))
        values = torch.linalg.eigvalsh(a)[:, 0]
        for k in range(b):
            residual = a[k] @ p[k] + g[k]  # = -mu p
            mu = -(residual @ p[k]) / (p[k] @ p[k])
            assert torch.allclose(residual, -mu * p[k], atol=1e-8) and mu > -1e-10 and mu >= -values[k] - 1e-8
            assert p[k].norm() <= radius * (1 + 1e-9) and (mu < 1e-9 or p[k].norm() > radius * (1 - 1e-6))
            assert torch.allclose(less[k], -(g[k] @ p[k] + p[k] @ a[k] @ p[k] / 2), rtol=1e-9)
    assert len(calls) == d


def test_few_products_are_conjugate_gradients():
    root = torch.randn(3, 7, 7)
    a, g = root @ root.mT + torch.eye(7), torch.randn(3, 7)
    every = torch.ones(3, dtype=torch.bool)
    space = Krylov(lambda v: (a @ v[:, :, None])[:, :, 0], g, torch.full((3,), 1e6), every, 0.0, most=3)
    for k in range(3):
        x, r = torch.zeros(7), -g[k]
        p = r
        for _ in range(3):
            step = (r @ r) / (p @ a[k] @ p)
            x, new = x + step * p, r - step * a[k] @ p
            p, r = new + (new @ new) / (r @ r) * p, new
        assert torch.allclose(space.step(torch.full((3,), 1e6))[0][k], x, rtol=1e-8)


# the optimum ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gradient", [Checkpoint(), Direct(), Reversible()], ids=str)
def test_one_step_solves_a_linear_problem(gradient):
    """On Gaussian data the sampler is affine: the first full Gauss-Newton step is the optimum, known by a solve."""
    plan = ReversibleHeun().plan(PROCESS, GRID) if isinstance(gradient, Reversible) else PLAN
    model, measured, x = law().denoiser(PROCESS), seen(), torch.randn(3, 5)
    zero = sample(model, plan, torch.zeros(1, 5), gradient=None)[0]
    slope = torch.stack([sample(model, plan, e[None], gradient=None)[0] - zero for e in torch.eye(5)], 1)
    a = measured.physics.matrix @ slope / measured.std
    rest = (measured.y - zero @ measured.physics.matrix.T) / measured.std
    wanted = torch.linalg.solve(a.T @ a + torch.eye(5), (rest @ a).mT).mT
    big = levenberg(reach=100.0, products=5, forcing=0.0)
    found = run(model, LeastSquares(measured.residual, measured.std), x, optimiser=big, prior=NormPrior(), plan=plan,
                steps=1, gradient=gradient)  # fmt: skip
    assert torch.allclose(found.x, wanted, atol=1e-9) and len(found.losses) == 2
    more = run(model, LeastSquares(measured.residual, measured.std), x, optimiser=big, prior=NormPrior(), plan=plan,
               steps=9, gradient=gradient)  # fmt: skip
    assert more.stop == Stop.CONVERGED and more.converged is not None and bool(more.converged.all())
    assert torch.allclose(more.sample, sample(model, plan, wanted, gradient=None), atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize(
    "loss, prior",
    [("squares", NormPrior()), ("squares", ChiPrior(0.1)), ("plain", ChiPrior(0.1)), ("plain", None)],
)
def test_a_mixture_ends_where_lbfgs_does(loss, prior):
    """By residuals and, of any other loss, by its Hessian at the sample. From a start near the optimum."""
    model, measured = mixture().denoiser(PROCESS), seen()
    plain = {"squares": LeastSquares(measured.residual, measured.std), "plain": measured.nats}[loss]
    near = optimise(
        model,
        PLAN,
        measured.nats,
        torch.randn(3, 5),
        optimiser=lbfgs(),
        steps=60,
        prior=prior,
        progress=False,
    )
    start = near.x + 0.05 * torch.randn(3, 5)
    ours = run(model, plain, start, steps=30, prior=prior)
    assert ours.converged is not None and bool(ours.converged.all())
    assert torch.allclose(ours.loss, near.loss, rtol=1e-6, atol=1e-8)


@pytest.mark.slow
def test_everything_that_a_sample_owns():
    """x, noise, controls and rows of conditioning at once, with a prior on each."""
    plan, model, measured = DDPM().plan(PROCESS, GRID), mixture().denoiser(PROCESS), seen()
    given = {
        "noise": Addressed(0), "cond": torch.randn(3, 5), "plan": plan,
        "over": Over(noise=True, cond=True, cond_rows=True, controls=True),
        "prior": Priors(x=NormPrior(), noise=NormPrior(), controls=NormPrior(2.0)),
    }  # fmt: skip
    x = torch.randn(3, 5)
    loss = LeastSquares(measured.residual, measured.std)
    ours = run(model, loss, x, steps=20, **given)
    assert ours.converged is not None and ours.controls is not None and isinstance(ours.noise, Tensor)
    # conditioning has no prior and can do it all: the optimum is 0, at x, noise and controls 0
    assert bool((ours.losses[0] > 1).all()) and bool((ours.loss < 1e-8).all()) and bool(ours.converged.all())
    again = sample(
        model, plan, ours.x, noise=ours.noise, cond=ours.cond, controls=ours.controls, gradient=None
    )
    assert torch.allclose(again, ours.sample)
    total = loss(again) + given["prior"](ours.x, ours.noise.movedim(0, 1), ours.controls.movedim(0, 1))
    assert torch.allclose(total, ours.loss, atol=1e-12)


def test_noise_alone_and_joint_states():
    plan, model, measured = DDPM().plan(PROCESS, GRID), mixture().denoiser(PROCESS), seen()
    x = torch.randn(3, 5)
    found = run(
        model,
        LeastSquares(measured.residual),
        x,
        plan=plan,
        noise=Addressed(0),
        over=Over(x=False, noise=True),
        steps=3,
    )
    assert torch.equal(found.x, x) and bool((found.loss < found.losses[0]).all())
    both = Denoiser(lambda x, t: {"a": torch.tanh(x["b"]), "b": x["a"].sin()}, PROCESS, V)
    start = {"a": torch.randn(2, 3), "b": torch.randn(2, 3)}
    found = run(
        both,
        LeastSquares(lambda out: torch.cat([out["a"] - 1, out["b"]], 1)),
        start,
        steps=5,
        prior=NormPrior(),
    )
    assert found.x.keys() == start.keys() and bool((found.loss < found.losses[0]).all())


# a sample by itself, and what it took ---------------------------------------------------------------------


def test_batch_mates_do_not_meet():
    """A sample's way is the same alone, beside one that has converged, and beside one whose steps are refused."""
    model, measured = mixture().denoiser(PROCESS), seen()
    x = torch.randn(3, 5) * torch.tensor([[0.1], [1.0], [20.0]])
    together = run(model, LeastSquares(measured.residual, measured.std), x, steps=6, prior=NormPrior())
    for b in range(3):
        own = Measurement(measured.physics, measured.y[b : b + 1], measured.std)
        alone = run(model, LeastSquares(own.residual, own.std), x[b : b + 1], steps=6, prior=NormPrior())
        assert torch.allclose(alone.x, together.x[b : b + 1], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("gradient", [Checkpoint(), Direct()], ids=str)
def test_what_is_counted_is_what_was_called(gradient):
    calls = [0]
    inner = mixture().denoiser(PROCESS)

    def network(x, t):
        calls[0] += 1
        return inner(x, t)

    measured = seen()
    model = Denoiser(network, PROCESS, inner.prediction)
    found = run(
        model, LeastSquares(measured.residual, measured.std), torch.randn(3, 5), steps=3, gradient=gradient
    )
    # a VJP under Checkpoint replays, which nfe counts; a JVP calls the network once
    assert calls[0] == found.nfe + found.jvps and found.jvps > 0
    assert found.nfe == PLAN.nfe * (len(found.losses) + 1) + (found.vjps if gradient == Checkpoint() else 0)


def test_without_forward_mode():
    measured, x = seen(), torch.randn(3, 5)
    model, loss = mixture().denoiser(PROCESS), LeastSquares(measured.residual, measured.std)
    ways = [levenberg(), levenberg(by=DoubleBackward())]
    one, other = (run(model, loss, x, optimiser=way, steps=3) for way in ways)
    assert torch.allclose(one.x, other.x, rtol=1e-9)


def test_a_step_to_what_is_not_finite_is_not_taken():
    """The loss is NaN outside a ball: the region shrinks until steps stay inside."""

    model, x = law().denoiser(PROCESS), torch.zeros(2, 5)
    begin = sample(model, PLAN, x, gradient=None)

    def residuals(x):
        return torch.where((x - begin).norm(dim=1, keepdim=True) < 0.3, x - begin - 3, torch.nan)

    found = run(model, LeastSquares(residuals), x, optimiser=levenberg(reach=50.0), steps=4)
    assert bool(found.loss.isfinite().all()) and bool((found.loss < found.losses[0]).all())
    assert bool(found.losses.isnan().any())


@pytest.mark.parametrize(
    "loss", [lambda s: (s - 1).abs().sum(1), lambda s: (s - 9).relu().sum(1) - s.abs().sum(1)]
)
def test_a_loss_without_curvature_is_descended_to_the_regions_edge(loss):
    """H = 0, so that (A + mu I) p = -g has p = -radius g/|g|: where it lowers the loss."""
    model, x = law().denoiser(PROCESS), torch.randn(3, 5).requires_grad_()
    before = loss(sample(model, PLAN, x))
    (g,) = torch.autograd.grad(before.sum(), x)
    found = run(model, loss, x.detach(), optimiser=levenberg(reach=0.01), steps=1)
    want = x.detach() - 0.01 * 5**0.5 * g / g.norm(dim=1, keepdim=True)
    assert torch.allclose(found.x, want, atol=1e-9) and bool((found.loss < before).all())
    prior = run(model, loss, x.detach(), optimiser=levenberg(reach=0.01), steps=1, prior=NormPrior())
    assert not torch.allclose(prior.x, found.x)


@pytest.mark.parametrize("make", [levenberg, lbfgs, adam], ids=["levenberg", "lbfgs", "adam"])
@pytest.mark.parametrize(
    "loss, error, words",
    [
        (
            LeastSquares(lambda s: torch.ones(3, 2)),
            ValueError,
            "loss: got values without a graph to the sample",
        ),
        (lambda s: s.detach().square().sum(1), ValueError, "loss: got values without a graph to the sample"),
        (
            lambda s: (s * torch.tensor([[1.0], [0.0], [1.0]])).square().sum(1).sqrt(),
            FloatingPointError,
            r"loss: got a gradient that is not finite .*for samples \[1\] of 3, .*finite slope",
        ),
        (
            lambda s: s.square().sum(1) * torch.tensor([1.0, torch.nan, 1.0]),
            FloatingPointError,
            r"loss: not finite at step 0 for samples \[1\] of 3",
        ),
    ],
    ids=["constant residuals", "detached", "no slope", "nan"],
)
def test_a_loss_that_cannot_be_descended_is_said_so(loss, error, words, make):
    with pytest.raises(error, match=words) as told:
        run(law().denoiser(PROCESS), loss, torch.randn(3, 5), optimiser=make())
    if make is levenberg:  # it takes no keep_finite
        assert "keep_finite" not in str(told.value)


def test_refusals():
    model, measured, x = mixture().denoiser(PROCESS), seen(), torch.randn(3, 5)
    loss = LeastSquares(measured.residual, measured.std)
    for more, words in (
        (
            {"over": Over(cond=True), "cond": torch.zeros(5)},
            r"got levenberg\(\) with variables that samples share",
        ),
        ({"project": lambda x: x}, r"got levenberg\(\) with .*a projection"),
        ({"clip": 1.0}, "clip=1.0"),
        ({"keep_finite": True}, "keep_finite=True"),
        ({"gradient": Continuous()}, "expected an exact strategy"),
        ({"gradient": Truncated(2)}, "truncation cuts x off"),
    ):
        with pytest.raises(ValueError, match=words):
            run(model, loss, x, **more)
    with pytest.raises(ValueError, match="residuals: got a tensor .* expected"):
        run(model, LeastSquares(lambda x: x.sum(1)), x)
    with pytest.raises(ValueError, match="got a loss whose slope"):
        run(model, lambda x: x.sum(1), x)
    with pytest.raises(ValueError, match="got a loss whose slope"):
        run(model, BlackBox(measured.nats, Addressed(0)), x)
    with pytest.raises(FloatingPointError, match="loss: not finite at step 0"):
        run(model, LeastSquares(lambda x: x / 0 * 0), x)


def test_least_squares_is_nats():
    measured, x = seen(), torch.randn(3, 5)
    assert torch.allclose(LeastSquares(measured.residual, measured.std)(x), measured.nats(x))


def test_a_noise_level_that_is_a_tensor():
    """One with a gradient: the run is that of the number, and the loss is differentiable with respect to it."""
    model, measured, x = mixture().denoiser(PROCESS), seen(), torch.randn(3, 5)
    level = torch.tensor(0.2, requires_grad=True)
    told = replace(measured, noise_std=level)
    plain, found = (
        run(model, LeastSquares(m.residual, m.std), x, steps=3, prior=NormPrior()) for m in (measured, told)
    )
    assert torch.equal(found.x, plain.x) and torch.equal(found.losses, plain.losses)
    assert level.grad is None and not (found.loss.requires_grad or found.sample.requires_grad)
    loss = LeastSquares(told.residual, told.std)(x)
    (slope,) = torch.autograd.grad(loss.sum(), level)
    assert torch.allclose(slope, -2 * loss.sum().detach() / level.detach())


@pytest.mark.parametrize(
    "std",
    [0.0, torch.inf, torch.tensor(0.0), torch.tensor(torch.nan), torch.tensor(-0.2, requires_grad=True), torch.ones(3)],
    ids=str,
)  # fmt: skip
def test_a_noise_level_is_one_positive_number(std):
    with pytest.raises(ValueError, match="^std: got .*, expected (one|a) finite number > 0"):
        LeastSquares(lambda x: x, std)
