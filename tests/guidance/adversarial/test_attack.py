"""Attacks and the defence they measure: projections, gradients through the sampler, purification in closed form."""

import pytest
import torch
from problems import MIXTURE, PROCESS
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pullback.adjoint import Checkpoint, Direct, Reversible, Truncated, sample
from pullback.guidance import L2, Expectation, FixedStep, Linf, advdiff, pgd, purify, straight_through
from pullback.solvers import (
    DDIM,
    DDPM,
    Addressed,
    Denoiser,
    DPMSolverPP,
    Gaussian,
    ReversibleHeun,
    UniformLambda,
    V,
)

MODEL = MIXTURE.denoiser(PROCESS)
ENDS = {"start": 0.4, "end": 0.05}
PLAN = DDIM().plan(PROCESS, UniformLambda(6, **ENDS))
TARGET = torch.tensor([0.9, 0.2], dtype=torch.float64)


def distance(x):
    return (x - TARGET).square().sum(1)


def log_prob(x):
    return -distance(x)


def test_projections_are_the_nearest_points():
    change = 3 * torch.randn(5, 2, 3)
    for ball, size in (
        (Linf(0.7), lambda x: x.flatten(1).abs().amax(1)),
        (L2(1.3), lambda x: x.flatten(1).norm(dim=1)),
    ):
        inside = ball.project(change)
        assert bool((size(inside) <= ball.radius + 1e-12).all()) and torch.allclose(
            ball.project(inside), inside, atol=1e-15
        )
        assert torch.equal(ball.project(1e-3 * change), 1e-3 * change)
        for _ in range(50):  # nearest: the residual makes an obtuse angle with every way into the ball
            other = ball.project(torch.randn(5, 2, 3))
            assert bool((((change - inside) * (other - inside)).flatten(1).sum(1) <= 1e-9).all())
    assert torch.equal(L2(1.0).direction(torch.zeros(1, 2)), torch.zeros(1, 2))


def test_pgd_finds_the_optimum_of_a_linear_loss():
    """min <w, x> over the ball: -radius sign(w), and -radius w/|w|."""
    w = torch.randn(4, 3)
    for ball, best in ((Linf(0.5), -0.5 * w.sign()), (L2(0.5), -0.5 * w / w.norm(dim=1, keepdim=True))):
        found = pgd(lambda x: (w * x).sum(1), torch.zeros(4, 3), ball, steps=12)
        assert torch.allclose(found.points[0], best, atol=1e-12) and torch.allclose(
            found.loss, (w * best).sum(1)
        )
    boxed = pgd(lambda x: (w * x).sum(1), torch.zeros(4, 3), Linf(0.5), steps=12, box=(-0.2, 0.3))
    assert torch.allclose(boxed.points[0], torch.where(w > 0, -0.2, 0.3))


@pytest.mark.slow
def test_pgd_on_latent_conditioning_and_noise_through_the_whole_sampler():
    plan = DDPM().plan(PROCESS, UniformLambda(6, start=0.9, end=0.05))
    x, cond, noise = torch.randn(3, 2), torch.zeros(3, 2), torch.randn(3, plan.slots, 2)

    def attack(strategy, b=slice(None)):
        return pgd(
            lambda z, c, n: distance(
                sample(MODEL, plan, z, cond=c, noise=n.movedim(1, 0), gradient=strategy)
            ),
            (x[b], cond[b], noise[b]),
            (L2(0.5), Linf(0.2), L2(0.3)),
            steps=6,
            stepping=FixedStep(0.3),
        )

    found, direct = attack(Checkpoint()), attack(Direct())
    assert all(torch.allclose(p, q, atol=1e-10) for p, q in zip(found.points, direct.points, strict=True))
    assert bool((found.loss < 0.8 * found.losses[0]).all()) and torch.equal(
        found.loss, found.losses.min(0).values
    )
    for start, point, ball in zip((x, cond, noise), found.points, (L2(0.5), Linf(0.2), L2(0.3)), strict=True):
        assert torch.allclose(ball.project(point - start), point - start, atol=1e-12) and not torch.equal(
            point, start
        )
    for b in range(3):
        one = attack(Checkpoint(), slice(b, b + 1))
        assert all(
            torch.allclose(p[0], q[b], atol=1e-10) for p, q in zip(one.points, found.points, strict=True)
        )


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_not_finite_is_no_attack(broken):
    """At a start it is refused by sample; later on the sample keeps its best and its mates go on as if alone."""
    with pytest.raises(FloatingPointError, match=r"samples \[0, 1, 2\] of 3"):
        pgd(lambda x: distance(x) * 0 + broken, torch.zeros(3, 2), L2(1.0), steps=2)

    start = torch.tensor([[0.0, 0.0], [0.5, -0.5]])

    def falls_off(
        x,
    ):  # where x_0 passes 0.3, which the first sample's path does and the second's had to begin with
        return torch.where((x[:, 0] > 0.3) & (x[:, 1] >= 0), broken, distance(x))

    with pytest.warns(UserWarning, match=r"samples \[0\] in restart 0"):
        both = pgd(falls_off, start, L2(0.5), steps=10)
    alone = pgd(falls_off, start[1:], L2(0.5), steps=10)
    assert torch.equal(both.points[0][1], alone.points[0][0]) and torch.equal(both.loss[1], alone.loss[0])
    assert both.points[0][0, 0] <= 0.3 and torch.allclose(both.loss, distance(both.points[0]))
    assert both.loss[0] < distance(start)[0]


def test_a_gradient_that_is_not_finite_is_said():
    """sqrt at 0 has an infinite slope: a step by its sign, or by inf/inf, is no step."""
    for ball in (Linf(0.5), L2(0.5)):
        with pytest.warns(UserWarning, match="gradient that is not finite"):
            found = pgd(lambda x: x.abs().sqrt().sum(1) + distance(x), torch.zeros(1, 2), ball, steps=3)
        assert torch.equal(found.points[0], torch.zeros(1, 2))


def two_wells(x):
    """Wells at -1 (depth 0.3) and at 1 (depth 1), a ridge at 0 between them."""
    return (x.square() - 1).square().sum(1) - 0.3 - 0.35 * (1 + torch.tanh(8 * x[:, 0]))


def test_restarts_find_the_deeper_well_and_keep_the_best_by_sample():
    start = torch.tensor([[-0.4], [-0.6], [0.5]])
    once = pgd(two_wells, start, Linf(2.0), steps=40, stepping=FixedStep(0.02))
    again = pgd(two_wells, start, Linf(2.0), steps=40, stepping=FixedStep(0.02), restarts=6)
    assert once.loss[:2].min() > -0.31 and once.loss[2] < -0.99  # two are caught in the shallow well
    assert bool((again.loss < -0.99).all()) and bool((again.restart[:2] > 0).all())
    assert again.losses.shape == (6 * 41, 3) and torch.equal(again.losses[:41], once.losses)
    assert torch.equal(again.loss, again.losses.min(0).values)
    assert bool(((again.points[0] - start).abs() <= 2.0 + 1e-12).all())
    for b in range(3):
        one = pgd(
            two_wells,
            start[b : b + 1],
            Linf(2.0),
            steps=40,
            stepping=FixedStep(0.02),
            restarts=6,
            noise=Addressed(0, [b], 1),
        )
        assert torch.equal(one.points[0][0], again.points[0][b]) and one.restart[0] == again.restart[b]


@pytest.mark.parametrize("ball", [Linf(0.7), L2(0.7)], ids=str)
def test_restarts_begin_uniformly_in_the_ball(ball):
    """Moments of the uniform law: E x^2 = r^2/3 in the cube, r^2/(d + 2) in the ball."""
    for d in (1, 3, 40):
        x = ball.spread(Addressed(0)(0, torch.zeros(4000, d)))
        assert torch.allclose(ball.project(x), x, atol=1e-12)
        exact = 0.7**2 / (3 if isinstance(ball, Linf) else d + 2)
        assert float(x.square().mean()) == pytest.approx(exact, rel=0.06) and abs(float(x.mean())) < 0.03


@pytest.mark.slow
def test_expectation_follows_the_mean_gradient():
    """loss = |x - y|^2 + a x . xi with xi of large variance: the mean over draws has the optimum y, one draw has none.

    Independent: every draw by its address, the mean gradient by hand.
    """

    def noisy(x, noise):
        return distance(x) + 3 * (x * noise(0, x)).sum(1)

    noise, x = Addressed(5, stream=7), torch.zeros(2, 2)
    loss = Expectation(noisy, draws=4, noise=noise)
    found = pgd(loss, x, L2(4.0), steps=3, stepping=FixedStep(0.05))
    point, losses = x, []
    for turn in range(4):
        xi = torch.stack([Addressed(5, stream=7 + 4 * turn + k)(0, x) for k in range(4)]).mean(0)
        losses.append(distance(point) + 3 * (point * xi).sum(1))
        slope = 2 * (point - TARGET) + 3 * xi
        point = point - 0.05 * 4.0 * slope / slope.norm(dim=1, keepdim=True)
    assert torch.allclose(found.losses, torch.stack(losses), atol=1e-12)
    judged = torch.stack([Addressed(5, stream=7 + 4 * 4 + k)(0, x) for k in range(4)]).mean(0)
    best = found.points[0]
    assert torch.allclose(found.loss, distance(best) + 3 * (best * judged).sum(1), atol=1e-12)

    end = [[], []]
    for seed in range(8):
        for kept, draws in zip(end, (1, 64), strict=True):
            points = []
            pgd(
                Expectation(noisy, draws, Addressed(seed)), x, L2(4.0), steps=30, stepping=FixedStep(0.02),
                callback=lambda step, p, points=points: points.append(p[0]),
            )  # fmt: skip
            kept.append(float(distance(points[-1]).mean()))
    assert sum(end[1]) < 0.3 * sum(end[0])


@pytest.mark.slow
def test_expectation_is_sample_by_sample():
    x, ids = torch.randn(3, 2), [4, 9, 2]
    plan = DDPM().plan(PROCESS, UniformLambda(4, start=0.4, end=0.05))

    def loss(image, noise):
        return distance(purify(MODEL, plan, image, noise.initial(image), noise=noise, gradient=Checkpoint()))

    def attack(b):
        return pgd(
            Expectation(loss, 2, Addressed(1, samples=[ids[k] for k in b])), x[b], Linf(0.3), steps=3,
            stepping=FixedStep(0.3), restarts=2, noise=Addressed(0, samples=[ids[k] for k in b]),
        )  # fmt: skip

    whole = attack([0, 1, 2])
    for b in range(3):
        one = attack([b])
        assert torch.allclose(one.points[0][0], whole.points[0][b], atol=1e-10)
        assert torch.allclose(one.loss[0], whole.loss[b], atol=1e-10)


@pytest.mark.parametrize("call, words", [
    (lambda: pgd(distance, torch.zeros(2, 2), (L2(1.0), L2(1.0))), "one ball"),
    (lambda: pgd(distance, torch.zeros(2, 2), L2(1.0), steps=0), "steps >= 1"),
    (lambda: pgd(lambda x: x, torch.zeros(2, 2), L2(1.0)), "one value per sample"),
    (lambda: pgd(distance, torch.zeros(2, 2), L2(1.0), restarts=0), "restarts >= 1"),
    (lambda: pgd(distance, torch.zeros(2, 2), L2(1.0), jitter=torch.zeros(2, 3)), r"jitter: got shapes \[\(2, 3\)\]"),
    (lambda: pgd(distance, torch.zeros(2, 2), L2(1.0), jitter=(torch.zeros(2, 2),) * 2), "expected a perturbation"),
    (lambda: pgd(distance, torch.full((2, 2), 4.25), L2(1.0), box=(0.0, 1.0)), "up to 3.25, expected all"),
    (lambda: pgd(distance, torch.zeros(2, 2), L2(1.0), box=(1.0, 0.0)), "low < high"),
    (lambda: pgd(lambda x: distance(x.detach()), torch.zeros(2, 2), L2(1.0)), "without a graph"),
    (lambda: pgd(distance, torch.zeros(2, 2), L2(1.0), noise=Addressed(0, samples=[1])), "one for each sample"),
    (lambda: Expectation(lambda x, noise: distance(x), draws=0), "at least 1"),
    (lambda: purify(MODEL, PLAN, torch.zeros(1, 2), torch.zeros(2, 2)), "the image's"),
    (lambda: advdiff(MODEL, PLAN, log_prob, torch.zeros(1, 2), lambda x: distance(x) < 0, rounds=0), "rounds >= 1"),
])  # fmt: skip
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()


# purification
# -----------------------------------------------------------------------------------------------------------


def test_purification_of_a_gaussian_is_in_closed_form():
    """Exact transport of alpha image + sigma start; its Jacobian is alpha times the flow's."""
    data = Gaussian(torch.tensor([0.5, -1.0]), torch.tensor([[0.8, 0.3], [0.3, 0.5]]))
    image, start, errors = torch.randn(3, 2).requires_grad_(), torch.randn(3, 2), []
    levels = [
        (float(PROCESS.alpha(t)), float(PROCESS.sigma(t))) for t in (torch.tensor(0.4), torch.tensor(0.05))
    ]
    exact = data.transport(levels[0][0] * image.detach() + levels[0][1] * start, *levels)
    jacobian = levels[0][0] * data.transport_matrix(*levels)[0]
    for n in (25, 50, 100):
        plan = DPMSolverPP(2).plan(PROCESS, UniformLambda(n, **ENDS))
        out = purify(data.denoiser(PROCESS), plan, image, start)
        (grad,) = torch.autograd.grad(out[:, 0].sum(), image)
        errors.append((float((out - exact).detach().norm()), float((grad - jacobian[0]).norm())))
    for coarse, fine in zip(errors, errors[1:], strict=False):
        assert coarse[0] / fine[0] > 3 and coarse[1] / fine[1] > 3
    assert errors[-1][0] < 1e-3 and errors[-1][1] < 1e-3


@pytest.mark.parametrize("strategy", [Checkpoint(), Reversible()], ids=str)
def test_the_gradient_through_purification_is_exact(strategy):
    plan = ReversibleHeun().plan(PROCESS, UniformLambda(30, **ENDS))
    image, start, found = torch.randn(3, 2).requires_grad_(), torch.randn(3, 2), []
    for gradient in (Direct(), strategy):
        found.append(
            torch.autograd.grad(distance(purify(MODEL, plan, image, start, gradient=gradient)).sum(), image)[
                0
            ]
        )
    assert torch.allclose(*found, rtol=1e-8, atol=1e-12)
    cut = torch.autograd.grad(distance(purify(MODEL, plan, image, start)).sum(), image)[0]
    assert float((cut - found[0]).norm()) < 1e-10  # Auto


class Made(TorchDispatchMode):
    """Watches what becomes of the storages that are made."""

    def __init__(self):
        super().__init__()
        self.storages = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, torch.Tensor):
                storage = value.untyped_storage()
                self.storages[storage.data_ptr()] = StorageWeakRef(storage), storage.nbytes()
        return out

    def alive(self):
        return sum(size for reference, size in self.storages.values() if not reference.expired())


def kept(strategy, steps):
    """Numbers in distinct storages that live on for the backward pass of one purification, once it is made; but for
    the times, of which the plan has one a call whatever the strategy keeps.
    """
    body = nn.Sequential(nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 16))
    plan = ReversibleHeun().plan(PROCESS, UniformLambda(steps, **ENDS))
    image, start = torch.randn(4, 16, requires_grad=True), torch.randn(4, 16)
    model = Denoiser(lambda x, t: body(x), PROCESS, V)
    with Made() as made:
        out = purify(model, plan, image, start, gradient=strategy)
    numbers = made.alive() // 8 - plan.nfe
    torch.autograd.grad(out.sum(), image)
    return numbers


def test_memory_does_not_grow_with_the_steps():
    few, many = (kept(Reversible(), n) for n in (10, 120))
    assert many <= few
    states = kept(Checkpoint(), 120) - kept(Checkpoint(), 10)
    assert states <= 110 * 4 * 16 * 2  # two states a step at most
    assert kept(Direct(), 120) > 3 * kept(
        Checkpoint(), 120
    )  # measured 4: a state is 64 numbers, an activation 256


def test_straight_through_and_truncation():
    image, start = torch.randn(3, 2).requires_grad_(), torch.randn(3, 2)
    purified = purify(MODEL, PLAN, image, start)
    out = straight_through(image, purified)
    assert torch.allclose(out, purified.detach(), atol=1e-14)
    grad = torch.autograd.grad(distance(out).sum(), image)[0]
    assert torch.allclose(grad, 2 * (purified - TARGET).detach())
    with pytest.raises(ValueError, match="Truncated"):
        torch.autograd.grad(purify(MODEL, PLAN, image, start, gradient=Truncated(2)).sum(), image)


# AdvDiff
# ----------------------------------------------------------------------------------------------------------------


def by_hand(x, scale):
    """Ten DDIM steps by plain calls, the last two followed by the addition."""
    plan = DDIM().plan(PROCESS, UniformLambda(10, start=0.9, end=0.05))
    times = torch.tensor(plan.times)
    for k in range(10):
        a, s, b, t = (float(f(times[j])) for j in (k, k + 1) for f in (PROCESS.alpha, PROCESS.sigma))
        data = MIXTURE.denoise(x, a, s)
        x = b * data + t * (x - a * data) / s
        if k >= 8:
            x = x + (scale * 2 * (TARGET - x)).detach()
    return x, plan


@pytest.mark.parametrize("strategy", [None, Checkpoint(), Direct()], ids=str)
def test_advdiff_round_by_round(strategy):
    start = torch.randn(3, 2)
    x = start.clone().requires_grad_()
    out, plan = by_hand(x, 0.1)
    if strategy is None:
        move = 2 * (TARGET - out.detach())
    else:
        (move,) = torch.autograd.grad(log_prob(out).sum(), x)
    again, _ = by_hand(start + 0.5 * move, 0.1)
    found = advdiff(
        MODEL, plan, log_prob, start, lambda x: distance(x) < -1, scale=0.1, rounds=2, gradient=strategy
    )
    assert torch.allclose(found.x, start + 0.5 * move, atol=1e-10) and torch.allclose(
        found.sample, again.detach(), atol=1e-10
    )
    assert found.rounds.tolist() == [2, 2, 2] and not bool(found.success.any())
    assert found.vjps == (0 if strategy is None else 10)


def test_advdiff_stops_sample_by_sample():
    start = torch.randn(4, 2)
    plan = by_hand(start, 0.0)[1]
    limit = float(distance(sample(MODEL, plan, start, gradient=None)).sort().values[1:3].mean())
    runs = [
        advdiff(
            MODEL,
            plan,
            log_prob,
            start[b],
            lambda x: distance(x) < limit,
            scale=0.0,
            noise_scale=0.2,
            rounds=4,
            gradient=Checkpoint(),
        )
        for b in (slice(None), *(slice(b, b + 1) for b in range(4)))
    ]
    assert sorted(runs[0].rounds.tolist())[:2] == [1, 1] and max(runs[0].rounds.tolist()) > 1
    for b in range(4):
        assert torch.allclose(runs[b + 1].sample[0], runs[0].sample[b], atol=1e-12)
        assert int(runs[b + 1].rounds) == int(runs[0].rounds[b])


def test_advdiff_names_a_gradient_that_is_not_finite():
    """The second sample's log_prob is NaN at what it finds: its noise stays, its mate moves as if alone."""
    start = torch.tensor([[0.4, -0.3], [-0.9, 1.0]])

    def partial(x):
        return torch.where(x[:, 0] < 0, float("nan"), 1.0) * log_prob(x)

    def run(b):
        return advdiff(
            MODEL, by_hand(start, 0.0)[1], partial, start[b], lambda x: distance(x) < -1, rounds=2, scale=0.0, last=0.0
        )  # fmt: skip

    with pytest.warns(UserWarning, match=r"samples \[1\] in round 0"):
        both = run(slice(None))
    assert torch.equal(both.x[1], start[1]) and torch.equal(both.x[0], run(slice(1)).x[0])
    assert not torch.equal(both.x[0], start[0])
    with pytest.raises(ValueError, match="one verdict per sample"):
        advdiff(MODEL, PLAN, log_prob, start, lambda x: distance(x).mean() < 1)


def test_an_image_over_the_box_by_round_off_is_clamped():
    """1 + 1.19e-7 is what a resize in float32 makes of 1."""
    image = torch.tensor([[1 + 2**-23, 0.5], [-(2**-23), 0.2]])
    found = pgd(distance, image, Linf(0.1), steps=3, box=(0.0, 1.0))
    assert bool(((found.points[0] >= 0) & (found.points[0] <= 1)).all())
    same = pgd(distance, image.clamp(0, 1), Linf(0.1), steps=3, box=(0.0, 1.0))
    assert torch.equal(found.points[0], same.points[0])
    with pytest.raises(ValueError, match="outside"):
        pgd(distance, image + 1e-5, Linf(0.1), box=(0.0, 1.0))


def test_one_start_takes_its_jitter_bare():
    begin = 0.05 * torch.ones(2, 2)
    bare, wrapped = (pgd(distance, torch.zeros(2, 2), L2(0.1), steps=2, jitter=j) for j in (begin, (begin,)))
    assert torch.equal(bare.points[0], wrapped.points[0]) and torch.equal(bare.losses[0], distance(begin))


def test_an_attack_under_no_grad_says_so():
    with torch.no_grad(), pytest.raises(ValueError, match="pgd: got a call under torch.no_grad"):
        pgd(distance, torch.zeros(2, 2), Linf(0.1))
