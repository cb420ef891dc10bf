"""End-to-end guidance reaches closed forms: posterior means, the regulator, exact gradients at everything
that enters.
"""

import itertools

import pytest
import torch
from problems import MIXTURE, PROCESS

from pullback.adjoint import Checkpoint, Direct, SkipStraight, sample
from pullback.guidance import (
    BlackBox,
    ChiPrior,
    Concentration,
    NormPrior,
    Over,
    Stop,
    adam,
    d_flow,
    dno,
    doodl,
    flow_grad,
    lbfgs,
    oc_flow,
    optimise,
    reno,
)
from pullback.guidance.latents.dflow import blended_start
from pullback.guidance.latents.priors import Priors
from pullback.guidance.latents.sample_lbfgs import SampleLBFGS
from pullback.solvers import (
    DATA,
    DDIM,
    EDICT,
    Addressed,
    Denoiser,
    FlowEuler,
    FlowMidpoint,
    Gaussian,
    RectifiedFlow,
    Rising,
    UniformLambda,
    UniformT,
)

FLOW = RectifiedFlow()
MODEL = MIXTURE.denoiser(PROCESS)
FLOW_MODEL = MIXTURE.denoiser(FLOW)
TARGET = torch.tensor([0.9, 0.2], dtype=torch.float64)
STRAIGHT = FlowEuler().plan(FLOW, UniformT(12, start=1.0, end=0.0))
ROUND = DDIM().plan(PROCESS, UniformLambda(6, start=0.9, end=0.05))
NOISY = DDIM(1.0).plan(PROCESS, UniformLambda(6, start=0.9, end=0.05))


def distance(x):
    return (x - TARGET).square().sum(1)


# D-Flow and per-sample L-BFGS
# ------------------------------------------------------------------------------------------


def test_d_flow_on_a_gaussian_is_the_posterior_mean():
    """z ~ N(0, I) and the exact flow: the minimum of -log p(y|x0) + |z|^2/2 is at E[x0|y]. Second order in
    the steps.
    """
    data = Gaussian(
        torch.tensor([0.5, -1.0, 0.3]), torch.tensor([[0.8, 0.3, 0.1], [0.3, 0.5, -0.1], [0.1, -0.1, 0.4]])
    )
    a, y, std = torch.tensor([[1.0, 0.5, -0.5], [0.0, 1.0, 1.0]]), torch.tensor([1.2, -0.4]), 0.3
    truth, errors = data.posterior(a, y, std).mean, []
    for n in (8, 16, 32):
        plan = FlowMidpoint().plan(FLOW, UniformT(n, start=1.0, end=0.0))
        result = d_flow(
            data.denoiser(FLOW),
            plan,
            lambda x: (x @ a.T - y).square().sum(1) / (2 * std**2),
            torch.zeros(1, 3),
            prior=NormPrior(),
            steps=8,
            progress=False,
        )
        errors.append(float((result.sample[0] - truth).norm()))
    assert errors[-1] < 2e-3 and errors[0] / errors[1] > 3 and errors[1] / errors[2] > 3, errors


def rosenbrock(x):
    return (1 - x[:, 0]).square() + 100 * (x[:, 1] - x[:, 0].square()).square()


def minimise(x, steps=40):
    x = x.clone().requires_grad_()
    maker = SampleLBFGS([x])

    def closure():
        maker.zero_grad()
        value = rosenbrock(x)
        value.sum().backward()
        return value.detach()

    for _ in range(steps):
        maker.step(closure)
    return x.detach()


def test_lbfgs_minimises_every_sample_as_if_alone():
    starts = torch.tensor([[-1.2, 1.0], [0.0, 0.0], [2.0, -1.0], [1.0, 1.0]])
    whole = minimise(starts)
    assert torch.allclose(whole, torch.ones(4, 2), atol=1e-6)
    for b in range(4):
        assert torch.allclose(minimise(starts[b : b + 1], 12)[0], minimise(starts, 12)[b], atol=1e-12)


def test_lbfgs_keeps_the_wolfe_conditions():
    """Every step lowers the loss by at least c1 of what its slope promises, and leaves at most c2 of the slope."""
    points = [minimise(torch.tensor([[-1.2, 1.0]]), steps).requires_grad_() for steps in range(12)]
    for old, new in itertools.pairwise(points):
        before, after = (torch.autograd.grad(rosenbrock(p).sum(), p)[0] for p in (old, new))
        move = (new - old).detach()
        slope = float((before * move).sum())
        assert slope < 0 and float((rosenbrock(new) - rosenbrock(old)).detach()) <= 1e-4 * slope
        assert abs(float((after * move).sum())) <= 0.9 * abs(slope)


def test_one_pair_is_kept_where_one_is_asked_for():
    x = torch.tensor([[-1.2, 1.0]], requires_grad=True)
    maker = SampleLBFGS([x], history=1)

    def closure():
        maker.zero_grad()
        value = rosenbrock(x)
        value.sum().backward()
        return value.detach()

    for _ in range(5):
        maker.step(closure)
        assert len(maker.pairs) == 1
    for bad in (lambda: lbfgs(history=0), lambda: lbfgs(searches=0), lambda: lbfgs(tolerance_change=-1.0)):
        with pytest.raises(ValueError, match="expected"):
            bad()([x])


def test_a_gradient_of_the_tolerance_itself_has_converged():
    """Before any search: that sample is not moved any more."""
    x = torch.tensor([[0.5], [0.75]], requires_grad=True)
    maker = SampleLBFGS([x], tolerance_grad=0.5)

    def closure():
        maker.zero_grad()
        value = x.square().sum(1) / 2
        value.sum().backward()
        return value.detach()

    maker.step(closure)
    assert maker.converged.tolist()[0] and x.detach()[0] == 0.5 and abs(x.detach()[1]) < 0.75


def test_a_forgotten_history_begins_with_a_small_step_again():
    """No pair counts any more: a unit step along a gradient of 1e8 is no trial, 1/|g|_1 is."""
    x = torch.tensor([[3.0]], requires_grad=True)
    maker = SampleLBFGS([x], searches=1)

    def closure():
        maker.zero_grad()
        value = 1e8 * x[:, 0].square()
        value.sum().backward()
        return value.detach()

    zero = torch.zeros(1, 1)
    maker.pairs = [(zero, zero, torch.zeros(1))]
    maker.step(closure)
    assert float(x) == pytest.approx(2.0)


def test_d_flow_stops_when_every_sample_has_converged():
    """A quadratic through a linear sampler: the optimum in a few steps, after which nothing is evaluated any more."""
    data = Gaussian(torch.tensor([0.5, -1.0]), torch.tensor([[0.8, 0.3], [0.3, 0.5]]))
    model, x = data.denoiser(PROCESS), torch.tensor([[0.3, -0.7], [2.0, 5.0], [0.1, 0.1]])
    found = d_flow(model, ROUND, distance, x, prior=NormPrior(), steps=200, progress=False)
    assert found.stop is Stop.CONVERGED and found.step < 15 and len(found.losses) < 40
    assert found.converged is not None and found.converged.tolist() == [True] * 3
    z = found.x.clone().requires_grad_()
    total = distance(sample(model, ROUND, z)) + z.square().sum(1) / 2
    assert float(torch.autograd.grad(total.sum(), z)[0].abs().max()) < 1e-4
    for b in range(3):
        one = d_flow(model, ROUND, distance, x[b : b + 1], prior=NormPrior(), steps=200, progress=False)
        assert torch.allclose(one.x[0], found.x[b], atol=1e-12)
    early = d_flow(model, ROUND, distance, x, prior=NormPrior(), steps=1, progress=False)
    assert early.stop is Stop.STEPS and early.converged is not None and not bool(early.converged.any())


def test_a_search_that_finds_nothing_lower_is_not_called_converged():
    """A gradient of the wrong sign: no step along it lowers the loss, whatever its size."""

    def lies(x):
        return distance(x.detach()) * 2 - distance(x) * (x * 0 + 1).prod(1)

    found = d_flow(MODEL, ROUND, lies, torch.randn(2, 2), prior=None, steps=50, progress=False)
    assert found.stop is Stop.STALLED and found.converged is not None and not bool(found.converged.any())
    assert found.step < 5


def test_oc_flow_by_default_converges_on_problems_it_was_not_tuned_on():
    """The extended MSA's fixed eta does not move where eta times the curvature passes 2: here up to 1e4."""
    for std in (1.0, 0.1, 0.01):
        data = Gaussian(torch.zeros(2), torch.tensor([[0.8, 0.3], [0.3, 0.5]]))
        found = oc_flow(
            data.denoiser(FLOW), STRAIGHT, lambda s, std=std: distance(s) / (2 * std**2), torch.randn(2, 2),
            progress=False,
        )  # fmt: skip
        assert found.stop is Stop.CONVERGED
        assert found.controls is not None
        controls = found.controls.clone().requires_grad_()
        out = sample(data.denoiser(FLOW), STRAIGHT, found.x, controls=controls)
        total = distance(out) / (2 * std**2) + controls.square().flatten(2).sum((0, 2)) / 2
        slope = torch.autograd.grad(total.sum(), controls)[0]
        # strongly convex with constant 1: the excess is at most |slope|^2 / 2
        assert float(slope.square().sum((0, 2)).max()) / 2 < 1e-6


def test_lbfgs_over_noise_and_controls_and_what_it_refuses():
    result = optimise(
        MODEL,
        NOISY,
        distance,
        torch.randn(3, 2),
        noise=Addressed(0),
        over=Over(noise=True),
        optimiser=lbfgs(),
        steps=12,
        progress=False,
    )
    assert (
        float(result.loss.max()) < 1e-8
        and isinstance(result.noise, torch.Tensor)
        and result.noise.shape == (6, 3, 2)
    )
    with pytest.raises(ValueError, match="share"):
        optimise(
            MODEL,
            ROUND,
            distance,
            torch.zeros(1, 2),
            cond=torch.zeros(2),
            over=Over(cond=True),
            optimiser=lbfgs(),
            progress=False,
        )


def test_the_blended_start_is_the_inverse_and_the_noise():
    rising = FlowMidpoint().plan(FLOW, Rising(tuple(torch.linspace(1e-3, 1, 65).tolist())))
    z = torch.randn(3, 2)
    y = MIXTURE.flow(z, FLOW, 1.0, 1e-3)
    assert torch.allclose(blended_start(FLOW_MODEL, rising, y, torch.randn(3, 2), share=1.0), z, atol=1e-2)
    noise = torch.randn(3, 2)
    assert torch.equal(blended_start(FLOW_MODEL, rising, y, noise, share=0.0), noise)
    with pytest.raises(ValueError, match="deterministic"):
        blended_start(MODEL, NOISY, y, noise)


# the other methods
# ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_doodl_stays_on_its_sphere_and_lowers_the_loss():
    x = torch.randn(3, 2)
    plan = EDICT().plan(PROCESS, UniformLambda(5, start=0.9, end=0.05))
    result = doodl(MODEL, plan, distance, x, steps=25, progress=False)
    assert torch.allclose(result.x.norm(dim=1), x.norm(dim=1), rtol=1e-12)
    assert bool((result.loss <= result.losses[0]).all()) and float(result.loss.sum()) < 0.7 * float(
        result.losses[0].sum()
    )
    for b in range(3):
        one = doodl(
            MODEL,
            plan,
            distance,
            x[b : b + 1],
            steps=5,
            noise=Addressed(0, samples=[b], stream=1),
            progress=False,
        )
        assert torch.allclose(one.losses[:, 0], result.losses[:5, b], atol=1e-10)


def test_dno_has_the_gradient_at_every_noise():
    """Against a plain loop written here: one small AdamW step moves every noise by lr against the sign of its
    gradient.
    """
    x, noise = torch.randn(2, 2), torch.randn(NOISY.slots, 2, 2)
    z, xi = x.clone().requires_grad_(), noise.clone().requires_grad_()
    state, p = z, PROCESS
    times = torch.tensor(NOISY.times)
    for k in range(6):
        (a, s), (b, t) = ((p.alpha(u), p.sigma(u)) for u in (times[k], times[k + 1]))
        sd = t * (1 - (b * s / (a * t)) ** -2).sqrt()
        eps = MIXTURE.noise(state, float(a), float(s))
        state = b * (state - s * eps) / a + (t**2 - sd**2).sqrt() * eps + sd * xi[k]
    grads = torch.autograd.grad(distance(state).sum(), [z, xi])
    assert all(bool((g.abs() > 1e-8).all()) for g in grads)
    result = dno(MODEL, NOISY, distance, x, noise, steps=2, lr=1e-4, clip=None, prior=None, progress=False)
    assert torch.allclose(result.losses[0], distance(state).detach(), atol=1e-10)
    decayed = [(v * (1 - 1e-4 * 0.01)) for v in (x, noise)]
    assert isinstance(result.noise, torch.Tensor)
    for new, old, grad in zip((result.x, result.noise), decayed, grads, strict=True):
        assert torch.allclose(old - new, 1e-4 * grad.sign(), rtol=1e-3, atol=0)


def test_dno_fits_the_target():
    noise = torch.randn(NOISY.slots, 3, 2)
    result = dno(
        MODEL, NOISY, distance, torch.randn(3, 2), noise, steps=40, lr=0.05, prior=None, progress=False
    )
    assert float(result.loss.sum()) < 0.05 * float(result.losses[0].sum())


def test_concentration_sees_what_the_norm_does_not():
    prior, shape = Concentration(size=4), (5, 16, 16)
    draws = torch.randn(*shape)
    flat = torch.ones(*shape)
    assert float(prior(draws).max()) < 0.5 < 20 < float(prior(flat).min())
    assert torch.allclose(ChiPrior()(flat), torch.zeros(5), atol=1e-2)  # the right norm
    grown = (1.5 * draws).requires_grad_()
    assert torch.autograd.gradcheck(
        Concentration(size=2, permutations=1), (1.5 * torch.randn(2, 40)).requires_grad_()
    )
    slope = torch.autograd.grad(prior(grown).sum(), grown)[0]
    assert bool((slope * grown).flatten(1).sum(1).gt(0).all())  # pulls the excess variance down


def test_concentration_by_hand():
    """n = 2 vectors (1, 2) and (3, 0): M_1 = |(2, 1)|, M_2 the norm of [[4, 1], [1, 1]]."""
    m1, m2, n, k = 5**0.5, (5 + 13**0.5) / 2, 2, 2
    excess = max((1 + m2) ** 0.5 - 1 - (k / n) ** 0.5, 0)
    expected = n * m1**2 / (2 * k) - torch.log(torch.tensor(2.0)) + n * excess**2 / 2
    found = Concentration(size=2, permutations=0)(torch.tensor([[1.0, 2.0, 3.0, 0.0]]))
    assert torch.allclose(found, expected[None], atol=1e-12)


def test_the_black_box_gradient_is_the_gradient_in_the_mean():
    x = torch.randn(2, 3, requires_grad=True)
    loss = BlackBox(lambda x: (x.square() * torch.tensor([1.0, 2.0, -1.0])).sum(1), Addressed(3), draws=4000)
    (grad,) = torch.autograd.grad(loss(x).sum(), x)
    exact = 2 * x.detach() * torch.tensor([1.0, 2.0, -1.0])
    spread = (
        exact.norm(dim=1, keepdim=True).square() + exact.square()
    ).sqrt() / 4000**0.5  # std of <g, d> d_i
    assert float(((grad - exact) / spread).abs().max()) < 4
    result = dno(
        MODEL,
        NOISY,
        BlackBox(distance, Addressed(1), draws=8),
        torch.randn(2, 2),
        torch.randn(6, 2, 2),
        steps=30,
        lr=0.05,
        prior=None,
        progress=False,
    )
    assert float(result.loss.sum()) < 0.3 * float(result.losses[0].sum())


def test_reno_keeps_the_best():
    """A step length that overshoots: the best is not the last, and it is what comes back."""
    x = torch.randn(4, 2)
    plan = DDIM().plan(PROCESS, UniformLambda(2, start=0.9, end=0.05))
    result = reno(MODEL, plan, distance, x, steps=15, lr=20.0, prior=None, progress=False)
    assert torch.equal(result.loss, result.losses.min(0).values) and bool(
        (result.losses[-1] > result.loss).any()
    )
    assert torch.allclose(distance(result.sample), result.loss, atol=1e-10)


def test_clipping_is_by_sample():
    """One SGD step of length 1 with clip c moves every sample by min(c, |g|), whatever its mates do."""
    x = torch.tensor([[5.0, 0.0], [0.2, 0.9]])
    g = x.clone().requires_grad_()
    exact = torch.autograd.grad(distance(sample(MODEL, ROUND, g)).sum(), g)[0].norm(dim=1)
    clip = float(exact.mean())
    moved = []

    def keep(value):
        moved.append(value.clone())
        return value

    optimise(
        MODEL,
        ROUND,
        distance,
        x,
        optimiser=lambda v: torch.optim.SGD(v, lr=1.0),
        clip=clip,
        steps=1,
        project=keep,
        progress=False,
    )
    assert float(exact.min()) < clip < float(exact.max())
    assert torch.allclose((moved[0] - x).norm(dim=1), exact.clamp(max=clip), rtol=1e-10)


# controls
# ---------------------------------------------------------------------------------------------------------------


def velocity(x, t):
    """u of the mixture on the rectified path, by hand: (x - D)/t."""
    return (x - MIXTURE.denoise(x, 1 - t, t)) / t


def flow_grad_by_hand(x):
    """States and lambda_k = (I + h J_k)^T lambda_{k+1} with full Jacobians."""
    states, times = [x], torch.tensor(STRAIGHT.times)
    for k in range(12):
        states.append(states[-1] + (times[k + 1] - times[k]) * velocity(states[-1], float(times[k])))
    lam = 2 * (states[-1] - TARGET)
    found = []
    for k in reversed(range(12)):
        jac = torch.func.jacrev(lambda s, k=k: velocity(s[None], float(times[k]))[0])(states[k][0])
        lam = lam @ (torch.eye(2) + (times[k + 1] - times[k]) * jac)
        found.append(lam)
    return torch.stack(found[::-1])


def control_gradient(strategy, x):
    controls = torch.zeros(12, *x.shape, requires_grad=True)
    out = sample(FLOW_MODEL, STRAIGHT, x, controls=controls, gradient=strategy)
    return torch.autograd.grad(distance(out).sum(), controls)[0], out.detach()


def test_flow_grad_is_the_product_of_jacobians_and_does_not_vanish():
    """Products of h J without the identities, a published slip, give 26 orders of magnitude less."""
    x = torch.tensor([[0.4, -1.3]])
    exact, out = control_gradient(Checkpoint(), x)
    assert torch.allclose(exact, flow_grad_by_hand(x), atol=1e-10)
    assert float(exact[0].norm()) > 1e-2
    result = flow_grad(FLOW_MODEL, STRAIGHT, distance, x, steps=25, progress=False)
    assert float(result.loss) < 0.05 * float(distance(out)) and result.controls is not None


class CountedVJP(torch.autograd.Function):
    """The identity, which counts in the last entry of a list how often it is differentiated."""

    @staticmethod
    def forward(ctx, x, counts):
        ctx.counts = counts
        return x.clone()

    @staticmethod
    def backward(ctx, grad):  # type: ignore
        ctx.counts[-1] += 1
        return grad, None


def test_straight_stretches():
    x = torch.tensor([[0.4, -1.3], [1.5, 0.2]])
    exact, out = control_gradient(Direct(), x)
    same, again = control_gradient(SkipStraight(0.0), x)
    assert torch.allclose(same, exact, atol=1e-12) and torch.allclose(again, out, atol=1e-12)
    errors, calls = [], []

    def counted(x, t):
        return MIXTURE.denoise(CountedVJP.apply(x, calls), FLOW.alpha(t), FLOW.sigma(t))

    for tolerance in (0.02, 0.1, 0.5):
        calls.append(0)
        controls = torch.zeros(12, *x.shape, requires_grad=True)
        out2 = sample(
            Denoiser(counted, FLOW, DATA), STRAIGHT, x, controls=controls, gradient=SkipStraight(tolerance)
        )
        grad = torch.autograd.grad(distance(out2).sum(), controls)[0]
        assert torch.allclose(out2, out, atol=1e-12)
        errors.append(float((grad - exact).norm() / exact.norm()))
        for b in range(2):
            assert torch.allclose(
                control_gradient(SkipStraight(tolerance), x[b : b + 1])[0][:, 0], grad[:, b], atol=1e-12
            )
    assert calls[0] >= calls[1] > calls[2] and 12 > calls[1] and errors[0] < errors[2] < 0.5, (calls, errors)
    with pytest.raises(ValueError, match="FlowEuler"):
        sample(MODEL, ROUND, x.requires_grad_(), gradient=SkipStraight())


def test_a_wholly_straight_path_takes_one_jacobian():
    """Constant velocity: every control's gradient is the loss's own, and one VJP gave it."""
    calls = [0]

    def network(x, t):
        x = CountedVJP.apply(x, calls)
        return x * 0 + (x[:, :1] * 0 + 2.0)

    from pullback.solvers import FLOW as PREDICTION

    controls = torch.zeros(12, 1, 2, requires_grad=True)
    out = sample(
        Denoiser(network, FLOW, PREDICTION),
        STRAIGHT,
        torch.zeros(1, 2),
        controls=controls,
        gradient=SkipStraight(),
    )
    grad = torch.autograd.grad(distance(out).sum(), controls)[0]
    assert sum(calls) == 1 and torch.allclose(grad, 2 * (out.detach() - TARGET).expand(12, 1, 2))


@pytest.mark.slow
def test_oc_flow_is_the_linear_quadratic_regulator():
    """x_{k+1} = A_k (x_k + u_k), cost w/2 |x_N - y|^2 + c/2 sum |u|^2: a Riccati recursion gives the optimal
    controls.
    """
    data = Gaussian(torch.zeros(2), torch.tensor([[0.8, 0.3], [0.3, 0.5]]))
    n, w, c, y, x = 4, 1.5, 2.0, torch.tensor([1.0, -0.5]), torch.tensor([[0.3, 0.8], [-1.0, 0.4]])
    plan = FlowEuler().plan(FLOW, UniformT(n, start=1.0, end=0.0))
    times, maps = torch.tensor(plan.times), []
    for k in range(n):
        a, s = 1 - times[k], times[k]
        gain = a * data.covs[0] @ torch.linalg.inv(a**2 * data.covs[0] + s**2 * torch.eye(2))
        maps.append(torch.eye(2) + (times[k + 1] - times[k]) * (torch.eye(2) - gain) / s)
    # value function v_k(x) = (x'P x)/2 + q'x + const, u = argmin c/2 |u|^2 + v_{k+1}(A (x + u))
    p, q, policy = w * torch.eye(2), -w * y, []
    for a in reversed(maps):
        p, q = a.T @ p @ a, a.T @ q
        inverse = torch.linalg.inv(c * torch.eye(2) + p)
        policy.append((inverse @ p, inverse @ q))
        p, q = p - p @ inverse @ p, q - p @ inverse @ q
    state, controls = x, []
    for a, (gain, shift) in zip(maps, reversed(policy), strict=True):
        controls.append(-(state @ gain.T + shift))
        state = (state + controls[-1]) @ a.T
    result = oc_flow(
        data.denoiser(FLOW),
        plan,
        lambda s: w / 2 * (s - y).square().sum(1),
        x,
        steps=70,
        lr=0.1,
        cost=c,
        progress=False,
    )
    assert result.controls is not None
    assert torch.allclose(result.controls, torch.stack(controls), atol=1e-6)
    assert torch.allclose(result.sample, state, atol=1e-6)


@pytest.mark.parametrize(
    "call, words",
    [
        (
            lambda: oc_flow(FLOW_MODEL, STRAIGHT, distance, torch.zeros(1, 2), lr=2.0, progress=False),
            "lower lr",
        ),
        (
            lambda: optimise(
                MODEL, ROUND, distance, torch.zeros(1, 2), prior=Priors(noise=NormPrior()), progress=False
            ),
            "does not vary",
        ),
        (lambda: Concentration(size=9)(torch.zeros(1, 4)), "lower size"),
        (lambda: blended_start(MODEL, ROUND, torch.zeros(1, 2), torch.zeros(1, 2), share=2.0), "share"),
        (lambda: blended_start(MODEL, ROUND, torch.zeros(3, 2), torch.zeros(1, 2)), "expected y's"),
        (
            lambda: doodl(MODEL, ROUND, distance, torch.eye(2) * torch.tensor([[1.0], [0.0]])),
            r"norm 0 for samples \[1\]",
        ),
        (lambda: BlackBox(distance, Addressed(0), draws=0), "draws >= 1"),
        (lambda: BlackBox(distance, Addressed(0), std=0.0), "std > 0"),
        (lambda: dno(MODEL, ROUND, distance, torch.zeros(1, 2), Addressed(0), progress=False), "stochastic"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.slow
def test_batch_mates_do_not_matter():
    x, noise = torch.randn(4, 2), torch.randn(6, 4, 2)
    runs = [
        lambda i: d_flow(MODEL, ROUND, distance, x[i], steps=4, progress=False),
        lambda i: dno(
            MODEL, NOISY, distance, x[i], noise[:, i], steps=4, prior=Concentration(size=1), progress=False
        ),
        lambda i: reno(MODEL, ROUND, distance, x[i], steps=4, progress=False),
        lambda i: oc_flow(FLOW_MODEL, STRAIGHT, distance, x[i], steps=4, progress=False),
        lambda i: optimise(MODEL, ROUND, distance, x[i], steps=4, optimiser=adam(), clip=0.1, progress=False),
    ]
    for run in runs:
        whole = run(slice(None))
        for b in range(4):
            assert torch.allclose(run(slice(b, b + 1)).sample[0], whole.sample[b], atol=1e-10)
