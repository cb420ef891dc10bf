"""RF-Inversion: what the two controlled ODEs do exactly, and gradients of the controllers' strengths."""

import math

import pytest
import torch
from flows import ball, exact_flow, plane
from hypothesis import given
from hypothesis import strategies as st
from problems import MIXTURE

from pullback.adjoint import AdjointDEIS, Checkpoint, Continuous, Direct, PerStep, Truncated
from pullback.guidance import edit
from pullback.guidance.edit.schedule import jumps
from pullback.solvers import (
    DDIM,
    FLOW,
    VP,
    Addressed,
    ClassifierFree,
    Denoiser,
    DPMSolverPP,
    EulerMaruyama,
    FlowAdams,
    FlowEuler,
    FlowHeun,
    FlowMidpoint,
    Method,
    RectifiedFlow,
    Rising,
    Shifted,
    UniformT,
    convert,
    moments,
    run,
)

GRIDS = [UniformT(28), Shifted(28), Shifted(7, shift=6.0)]
IN_TIME = [FlowEuler(), FlowMidpoint(), FlowAdams(2), DDIM(), edit.FireFlow()]
SHIFT = torch.tensor([0.7, -0.4], dtype=torch.float64)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("method", IN_TIME, ids=str)
def test_full_control_reaches_the_anchors(method, grid):
    """gamma = 1 ends at y1, eta = 1 at y0: straight lines in t, which every method in t integrates exactly."""
    flow, image = plane(4)
    y1 = Addressed(5).initial(image)
    latent = edit.rf_invert(flow, image, gamma=1.0, grid=grid, method=method, noise=Addressed(5))
    back = edit.rf_regenerate(flow, latent + 1.0, image, cond=SHIFT, eta=1.0, grid=grid, method=method)
    assert float((latent - y1).abs().max()) < 1e-15 and float((back - image).abs().max()) < 1e-15


@pytest.mark.parametrize("method", [*IN_TIME, DPMSolverPP(2), FlowHeun()], ids=str)
def test_without_control_it_is_the_solver(method):
    flow, image = plane(4)
    found = edit.rf_inversion(flow, image, target=SHIFT, gamma=0.0, eta=0.0, grid=Shifted(12), method=method)
    times = Shifted(12).times(flow.process)
    latent = run(flow, method.plan(flow.process, Rising(times)), image)
    assert torch.equal(found.latent, latent)
    assert torch.equal(found.sample, run(flow, method.plan(flow.process, times), latent, SHIFT))
    assert found.nfe == 2 * method.plan(flow.process, times).nfe


def test_it_is_the_papers_two_loops():
    """Euler on the two ODEs, written as they are printed."""
    flow, image = plane(3)
    s = torch.linspace(0, 1, 29, dtype=torch.float64)
    y1 = Addressed(2).initial(image)
    y = image
    for low, high in zip(s, s[1:], strict=False):
        u = flow(y, low.expand(3))
        y = y + (high - low) * (u + 0.5 * ((y1 - y) / (1 - low) - u))
    x = y
    for i, (low, high) in enumerate(zip(s, s[1:], strict=False)):
        w = -flow(x, (1 - low).expand(3), SHIFT)
        x = x + (high - low) * (w + (0.9 if i < 7 else 0.0) * ((image - x) / (1 - low) - w))
    found = edit.rf_inversion(flow, image, target=SHIFT, noise=Addressed(2))
    assert torch.allclose(found.latent, y, atol=1e-13) and torch.allclose(found.sample, x, atol=1e-13)


def test_the_controller_is_the_linear_quadratic_regulator():
    """Least sum of h |c|^2/2 + lambda |x_N - anchor|^2/2 on x <- x + h c by Riccati's recursion, lambda to infinity."""
    times = Shifted(9).times(RectifiedFlow()).flip(0)
    still = Denoiser(lambda x, t: torch.zeros_like(x), RectifiedFlow(), FLOW)
    model, anchor = edit.Controlled(still, 1.0), torch.tensor([[1.5, -0.3]])
    cost = 1e13
    gains = []
    for h in times.diff().flip(0).tolist():
        gains.append(cost / (1 + h * cost))  # c = gain (anchor - x)
        cost = cost / (1 + h * cost)
    x = torch.tensor([[0.2, 0.9]])
    for t, h, gain in zip(times, times.diff(), gains[::-1], strict=False):
        control = model(x, t[None], {"inner": None, "anchor": anchor, "gain": torch.tensor(1.0)})
        assert torch.allclose(control, gain * (anchor - x), rtol=1e-11)
        x = x + h * control


@given(shift=st.floats(0.2, 8.0), steps=st.integers(1, 40), gamma=st.sampled_from([0.0, 0.5]))
def test_the_time_told_is_the_time_integrated(shift, steps, gamma):
    """u = t: what is told to the model adds up to the state it is told it at."""
    grid, told = Shifted(steps, shift=shift), []

    def network(x, t):
        told.append(float(t[0]))
        return t[:, None].expand_as(x)

    clock = Denoiser(network, RectifiedFlow(), FLOW)
    found = edit.rf_inversion(clock, torch.zeros(1, 2), target=None, gamma=gamma, eta=0.0, grid=grid)
    times = grid.times(clock.process)
    up, down = told[:steps], told[steps:]
    assert up == times.flip(0)[:-1].tolist() and down == times[:-1].tolist()
    if gamma == 0.0:
        wanted = sum(h * t for h, t in zip(times.flip(0).diff().tolist(), up, strict=True))
        assert torch.allclose(found.latent, torch.tensor(wanted), atol=1e-14)


def test_the_sde_is_the_papers():
    """dX = (2 w - X/s) ds + sqrt(2 (1 - s)/s) dW by Euler, w = -u: EulerMaruyama on the rectified flow, first
    step noise-free.
    """
    flow, start = plane(3)
    plan = EulerMaruyama().plan(flow.process, UniformT(10))
    noise = Addressed(4)
    s = 1 - torch.tensor(plan.times)
    x = start
    for i, h in enumerate(s.diff()):
        w = -flow(x, (1 - s[i]).expand(3))
        if i == 0 or i == 9:  # singular at s = 0; the last step ends noise-free here, the paper's does not
            x = x + h * w
        else:
            x = x + h * (2 * w - x / s[i]) + (2 * (1 - s[i]) / s[i] * h).sqrt() * noise(i - 1, x)
    found = edit.rf_regenerate(
        flow, start, start, cond=None, eta=0.0, grid=UniformT(10), method=EulerMaruyama(), noise=noise
    )
    assert torch.allclose(found, x, atol=1e-12)


def test_ode_and_sde_end_in_the_same_law():
    """At eta = 0, from N(0, 1): both tend to the data's N(0.6, 0.25), the ODE's variance as 1/N, the SDE's
    here even as 1/N^2.
    """
    for method, least, most in ((FlowEuler(), 1.9, 2.1), (EulerMaruyama(), 3.8, 4.2)):
        ends = [
            moments(method.plan(RectifiedFlow(), UniformT(steps)), 0.6, 0.25, 0.0, 1.0)
            for steps in (100, 200, 400)
        ]
        assert all(abs(mean - 0.6) < 1e-12 for mean, _ in ends)
        off = [abs(variance - 0.25) for _, variance in ends]
        assert all(least < a / b < most for a, b in zip(off, off[1:], strict=False)) and off[-1] < 2e-3, (
            method,
            off,
        )


def test_sampled_ode_and_sde_agree():
    """z-test of mean and variance of 500 x 8 draws through `rf_regenerate`."""
    flow, count = ball(d=8), 500
    image = torch.zeros(count, 8)
    for method in (FlowEuler(), EulerMaruyama()):
        out = edit.rf_regenerate(
            flow,
            Addressed(0).initial(image),
            image,
            cond=None,
            eta=0.0,
            grid=UniformT(60),
            method=method,
            noise=Addressed(1),
        )
        law = moments(method.plan(flow.process, UniformT(60)), 0.0, 0.25, 0.0, 1.0)[1]
        assert abs(law - 0.25) < 0.02 and abs(float(out.mean())) < 4 * (law / out.numel()) ** 0.5
        assert abs(float(out.var()) / law - 1) < 4 * (2 / out.numel()) ** 0.5


def test_controlled_ode_of_a_gaussian_in_closed_form():
    """N(0, v), gamma and eta constant, Euler: products of the affine maps."""
    flow, v, gamma, eta = ball(0.25), 0.25, 0.3, 0.6
    image = torch.tensor([[0.4, -1.0]])
    y1 = torch.tensor([[1.2, 0.1]])
    times = UniformT(20).times(flow.process).flip(0).tolist()

    def speed(t):  # u = speed(t) x
        return (t - (1 - t) * v) / ((1 - t) ** 2 * v + t**2)

    y = image
    for low, high in zip(times, times[1:], strict=False):
        y = (
            y * (1 + (high - low) * ((1 - gamma) * speed(low) - gamma / (1 - low)))
            + (high - low) * gamma / (1 - low) * y1
        )
    x = y
    for low, high in zip(times[::-1], times[-2::-1], strict=False):
        x = x * (1 + (high - low) * ((1 - eta) * speed(low) + eta / low)) - (high - low) * eta / low * image
    found = edit.rf_inversion(flow, image, target=None, gamma=gamma, eta=eta, grid=UniformT(20), noise=y1)
    assert torch.allclose(found.latent, y, atol=1e-14) and torch.allclose(found.sample, x, atol=1e-14)


# schedules
# --------------------------------------------------------------------------------------------------------------


def test_windows():
    trend = edit.Trend
    assert edit.Schedule(0.9, stop=0.25).values(28).tolist() == [0.9] * 7 + [0.0] * 21
    assert edit.Schedule(0.8, 0.25, 0.75, trend.RISE).values(8).tolist() == pytest.approx(
        [0, 0, 0.2, 0.4, 0.6, 0.8, 0, 0]
    )
    assert edit.Schedule(0.8, 0.25, 0.75, trend.FALL).values(8).tolist() == pytest.approx(
        [0, 0, 0.8, 0.6, 0.4, 0.2, 0, 0]
    )
    assert edit.Schedule(1.0, 0.0, 1.0, trend.POWER, 2.0).values(4).tolist() == pytest.approx(
        [1, 9 / 16, 1 / 4, 1 / 16]
    )
    assert edit.Schedule(0.5, 0.5, 0.5).values(4).tolist() == [0.0] * 4


def test_a_schedule_is_its_values():
    flow, image = plane(2)
    window = edit.Schedule(0.9, 0.1, 0.5, edit.Trend.FALL)
    one = edit.rf_inversion(flow, image, target=SHIFT, eta=window, grid=UniformT(10)).sample
    two = edit.rf_inversion(flow, image, target=SHIFT, eta=window.values(10), grid=UniformT(10)).sample
    three = edit.rf_inversion(
        flow, image, target=SHIFT, eta=window.values(10)[:, None].expand(10, 2), grid=UniformT(10)
    ).sample
    assert torch.equal(one, two) and torch.equal(one, three)


# batches and seeds
# ------------------------------------------------------------------------------------------------------


def test_a_batch_is_its_samples():
    flow, image = plane(4)
    cond = torch.randn(4, 2, generator=torch.Generator().manual_seed(1))
    eta = torch.rand(12, 4, generator=torch.Generator().manual_seed(2))
    whole = edit.rf_inversion(flow, image, target=cond, eta=eta, noise=Addressed(7), grid=Shifted(12))
    y1 = Addressed(7).initial(image)
    for k in range(4):
        alone = edit.rf_inversion(
            flow,
            image[k : k + 1],
            target=cond[k : k + 1],
            eta=eta[:, k],
            noise=Addressed(7, samples=[k]),
            grid=Shifted(12),
        )
        assert torch.equal(Addressed(7, samples=[k]).initial(image[:1])[0], y1[k])
        assert torch.allclose(alone.sample[0], whole.sample[k], atol=1e-13)
    assert whole.seed == 7


def test_guidance_is_a_model_around():
    flow, image = plane(2)
    one = edit.rf_inversion(flow, image, target=SHIFT, scale=2.5, grid=UniformT(8))
    two = edit.rf_regenerate(ClassifierFree(flow, 2.5), one.latent, image, cond=SHIFT, grid=UniformT(8))
    assert torch.equal(one.sample, two)


# gradients
# --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gradient", [Direct(), Checkpoint()], ids=str)
@pytest.mark.parametrize("each", [False, True])
def test_gradients_of_both_strengths(gradient, each):
    flow, image = plane(2)
    shape = (6, 2) if each else (6,)
    strengths = [torch.rand(shape, generator=torch.Generator().manual_seed(k)) * 0.6 + 0.2 for k in (0, 1)]

    def loss(eta, gamma, **options):
        out = edit.rf_inversion(
            flow, image, target=SHIFT, eta=eta, gamma=gamma, grid=Shifted(6), **options
        ).sample
        return (out * torch.tensor([1.0, -0.7])).sin().sum()

    leaves = [s.clone().requires_grad_() for s in strengths]
    found = torch.autograd.grad(loss(*leaves, gradient=gradient), leaves)
    for j, grad in enumerate(found):
        assert float(grad.abs().min()) > 1e-5
        for at in ([0, 0], [3, 1], [5, 0]):
            index = tuple(at) if each else at[0]
            ends = []
            for side in (1e-5, -1e-5):
                moved = [s.clone() for s in strengths]
                moved[j][index] += side
                ends.append(float(loss(*moved, gradient=None)))
            assert math.isclose(float(grad[index]), (ends[0] - ends[1]) / 2e-5, rel_tol=1e-6, abs_tol=1e-9)


@pytest.mark.slow
def test_gradients_reach_image_anchor_and_conditions():
    flow, image = plane(2)
    y1, target, source = Addressed(0).initial(image), SHIFT.clone(), torch.zeros(2)

    def edited(*inputs):
        image, y1, target, source = inputs
        return edit.rf_inversion(flow, image, target=target, source=source, noise=y1, grid=UniformT(5)).sample

    inputs = [v.clone().requires_grad_() for v in (image, y1, target, source)]
    assert torch.autograd.gradcheck(edited, inputs)


@pytest.mark.slow
def test_learned_eta_lowers_the_loss_and_stays_in_range():
    flow, image = plane(3)
    cond = torch.tensor([0.4, 0.1])

    def loss(x):  # keep the first coordinate, move the second
        return (x[:, 0] - image[:, 0]).square() + (x[:, 1] - image[:, 1] - 0.5).square()

    for gamma in (False, True):
        found = edit.learn_schedule(
            flow, image, loss, target=cond, steps=8, grid=UniformT(8), learn_gamma=gamma, lr=0.1
        )
        assert bool((found.loss < found.losses[0]).all()) and bool((found.loss <= found.losses.amin(0)).all())
        assert bool(((found.eta >= 0) & (found.eta <= 1)).all()) and found.eta.shape == (8, 3)
        assert torch.allclose(loss(found.edit.sample), found.loss, atol=1e-12)
        assert torch.equal(found.gamma, torch.full((8, 3), 0.5)) != gamma
        alone = edit.learn_schedule(
            flow,
            image[1:2],
            lambda x: (x[:, 0] - image[1:2, 0]).square() + (x[:, 1] - image[1:2, 1] - 0.5).square(),
            target=cond,
            steps=8,
            grid=UniformT(8),
            learn_gamma=gamma,
            lr=0.1,
            noise=Addressed(0, samples=[1]),
        )
        assert torch.allclose(alone.eta[:, 0], found.eta[:, 1], atol=1e-9)


@pytest.mark.slow
def test_calls_of_learning_are_counted():
    seen = []
    flow, image = plane(2)

    def network(x, t, cond=None):
        seen.append(1)
        return flow.network(x, t, cond)

    counted = Denoiser(network, flow.process, FLOW)
    for gamma in (False, True):
        seen.clear()
        found = edit.learn_schedule(
            counted,
            image,
            lambda x: x.square().sum(1),
            target=SHIFT,
            steps=3,
            grid=UniformT(5),
            learn_gamma=gamma,
        )
        assert found.nfe == len(seen) and found.vjps == (2 if gamma else 1) * 15


def test_one_schedule_for_all():
    flow, image = plane(3)
    found = edit.learn_schedule(
        flow,
        image,
        lambda x: (x - image - 0.2).square().sum(1),
        target=SHIFT,
        steps=4,
        grid=UniformT(6),
        shared=True,
    )
    assert found.eta.shape == (6,) and float(found.loss.sum()) < float(found.losses[0].sum())
    assert float(found.loss.sum()) == float(found.losses.sum(1).min())


def test_a_trained_network_is_a_network_too():
    """Parameters that require a gradient get one through both passes."""
    layer = torch.nn.Linear(2, 2)
    model = Denoiser(lambda x, t: layer(x), RectifiedFlow(), FLOW)
    out = edit.rf_inversion(model, torch.ones(1, 2), target=None, grid=UniformT(4)).sample
    assert float(torch.autograd.grad(out.sum(), layer.weight)[0].abs().sum()) > 0


# refusals
# ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": 1.5}, "gamma: got 1.5"),
        ({"eta": -0.1}, "eta: got -0.1"),
        ({"eta": torch.tensor([0.5, 1.2, 0.1])}, "eta: got values"),
        ({"eta": torch.zeros(4)}, r"eta: got shape \(4,\), expected \(3,\)"),
        ({"gamma": float("nan")}, "gamma: got nan"),
        ({"grid": torch.tensor([0.0, 0.5, 1.0])}, "grid: got times rising"),
        ({"noise": torch.zeros(1, 2)}, "noise: got y1 of shape"),
        ({"noise": Addressed(0, samples=[1])}, "sample ids"),
        ({"method": FlowHeun()}, "call at t=1"),
        ({"method": EulerMaruyama()}, "rising grid"),
    ],
)
def test_what_does_not_fit_is_refused_first(options, message):
    def network(x, t, cond=None):
        raise AssertionError("called")

    model = Denoiser(network, RectifiedFlow(), FLOW)
    with pytest.raises(ValueError, match=message):
        edit.rf_inversion(model, torch.zeros(2, 2), target=None, **{"grid": UniformT(3), **options})


def test_other_refusals():
    flow, image = plane(2)
    for bad in ({"value": 1.1}, {"start": -0.1}, {"start": 0.6, "stop": 0.5}, {"stop": 1.2}, {"power": -1.0}):
        with pytest.raises(ValueError, match="Schedule: got"):
            edit.Schedule(**bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected RectifiedFlow"):
        edit.rf_inversion(MIXTURE.denoiser(VP()), image, target=None)
    with pytest.raises(ValueError, match="stochastic method, expected eta=0"):
        edit.rf_regenerate(flow, image, image, cond=None, eta=0.1, method=EulerMaruyama(), noise=Addressed(0))
    with pytest.raises(ValueError, match=r"call at t=0 in step 27"):
        edit.rf_regenerate(flow, image, image, cond=None, eta=0.1, method=FlowHeun())
    with pytest.raises(ValueError, match="one value per sample"):
        edit.learn_schedule(flow, image, lambda x: x.sum(), target=None, grid=UniformT(3))
    with pytest.raises(ValueError, match="average it"):
        edit.learn_schedule(
            flow, image, lambda x: x.sum(1), target=None, grid=UniformT(3), eta=torch.zeros(3, 2), shared=True
        )
    with pytest.raises(FloatingPointError, match="step 0"):
        edit.learn_schedule(flow, image, lambda x: x.sum(1) / 0, target=None, grid=UniformT(3))
    edit.rf_regenerate(flow, image, image, cond=None, method=FlowHeun())  # its window stops before the end


def test_the_image_keeps_its_anchor_per_step():
    """Anchor and gains are conditioning: what `Controlled.cond` builds is a tree that `sample` understands."""
    tree = edit.Controlled.cond(SHIFT, torch.zeros(1, 2), torch.ones(3))
    assert isinstance(tree["gain"], PerStep) and tree["inner"] is SHIFT


def test_faithfulness_comes_from_the_window():
    """Mixture: the latent of gamma = 0.5 decoded without eta forgets the image; fresh noise with the window
    does not.
    """
    flow, image = exact_flow(MIXTURE), MIXTURE.sample(200, torch.Generator().manual_seed(0))
    window, fresh = edit.Schedule(0.9, stop=0.75), Addressed(9).initial(image)
    latent = edit.rf_invert(flow, image, gamma=0.5)

    def far(start, eta):
        return float(
            (edit.rf_regenerate(flow, start, image, cond=None, eta=eta) - image).square().sum(1).mean()
        )

    lost, held, fresh_held = far(latent, 0.0), far(latent, window), far(fresh, window)
    # measured: 2.92 (3.13 from fresh noise), 0.18 and 0.24: all but 2 % of what is gained comes from the
    # window
    assert lost > 0.9 * far(fresh, 0.0) and held < 0.1 * lost and fresh_held - held < 0.05 * (lost - held)


def test_continuous_adjoints_under_a_controller():
    """With a second plan that meets the schedule's edge they are nearer to the flow than the run's own gradient, at eta
    while it acts, and at the latent; what has no such gradient is refused.
    """
    exact, process = MIXTURE.denoiser(RectifiedFlow()), RectifiedFlow()

    def velocity(x, t, cond=None):
        t = t.clamp(1e-9, 1 - 1e-9)
        return convert(exact(x, t), x, exact.prediction, FLOW, process, t)

    model, g = Denoiser(velocity, process, FLOW), torch.Generator().manual_seed(0)
    image, latent = torch.tensor([[1.0, 0.3], [-0.8, 0.9], [0.2, -1.0]]), torch.randn(3, 2, generator=g)

    def gradient(strategy, method: Method = FlowEuler(), finer=1, shape=(24,)):
        eta = torch.zeros(shape)
        eta[:6] = 0.9
        eta, z = eta.requires_grad_(), latent.clone().requires_grad_()
        rows, grid = eta.repeat_interleave(finer, 0), UniformT(24 * finer)
        out = edit.rf_regenerate(
            model, z, image, cond=None, eta=rows, grid=grid, method=method, gradient=strategy
        )
        at_eta, at_z = torch.autograd.grad((out * torch.tensor([1.0, -0.6])).sum(), [eta, z])
        return at_eta[:6], at_z

    truth = gradient(Checkpoint(), FlowMidpoint(), 8)
    own, ours = (
        [float((a - b).norm() / b.norm()) for a, b in zip(gradient(s), truth, strict=True)]
        for s in (Checkpoint(), Continuous(method=FlowHeun()))
    )
    assert all(b < 0.3 * a < 0.03 for a, b in zip(own, ours, strict=True)), (own, ours)
    with pytest.raises(ValueError, match=r"multistep EDMPEC.*take FlowHeun"):
        gradient(Continuous())
    with pytest.raises(ValueError, match="a schedule for each sample"):
        gradient(Continuous(method=FlowHeun()), shape=(24, 3))
    for strategy in (Continuous(), AdjointDEIS(), Truncated(3, Continuous())):
        with pytest.raises(ValueError, match=r"gamma: got .* holds up to t=1.*ends at its anchor"):
            edit.rf_invert(
                model, image.clone().requires_grad_(), gamma=0.5, grid=UniformT(4), gradient=strategy
            )


def test_where_a_schedule_jumps():
    gain = edit.Schedule(0.9, 0.25, 0.5).values(8)
    assert jumps(edit.Schedule(0.9, 0.25, 0.5), gain) == jumps(gain, gain) == (2, 4)
    assert jumps(0.5, edit.Schedule(0.5).values(8)) == jumps(edit.Schedule(0.9, 0.0, 1.0), gain) == ()
    assert jumps(gain, torch.stack([gain, gain.roll(1)], 1)) == (2, 3, 4, 5)
