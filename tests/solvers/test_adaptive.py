"""Adaptive steps: the published loops, each sample by itself, and the accepted grid as an exact plan."""

import math

import pytest
import torch
from problems import MIXTURE, PROCESS
from torch import nn

from pullback.adjoint import Checkpoint, Direct, PerStep, sample
from pullback.solvers import (
    DATA,
    DEIS,
    NOISE,
    PID,
    AdaptiveDPM,
    Brownian,
    CosineVP,
    Denoiser,
    DPMSolverPP,
    GottaGoFast,
    IntegralControl,
    UniformLambda,
    V,
    accepted_times,
    adapt,
    run,
)
from pullback.solvers.methods.adaptive.exponential_heun import ExponentialHeun

START, END = 1.0, 0.02
MODEL = MIXTURE.denoiser(PROCESS)
PUBLISHED = IntegralControl(0.9, low=0.0, high=math.inf)
PAIRS = [AdaptiveDPM(order, side) for order in (2, 3) for side in (NOISE, DATA)]


def draws(batch, seed=0):
    return torch.randn(batch, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def levels(lam):
    """(t, alpha, sigma) of VP at lambda, in closed form."""
    alpha = 1 / math.sqrt(1 + math.exp(-2 * lam))
    c, slope = -2 * math.log(alpha), 20.0 - 0.1
    return 2 * c / (0.1 + math.sqrt(0.01 + 2 * slope * c)), alpha, math.sqrt(1 - alpha**2)


def lam_of(t):
    log_alpha = -(20.0 - 0.1) / 4 * t**2 - 0.1 / 2 * t
    return log_alpha - 0.5 * math.log(-math.expm1(2 * log_alpha))


def published(predict, x, order, side, rtol, atol, h, propose):
    """DPM-Solver's algorithm 3 with the solvers of algorithms 1 and 2 (arXiv 2206.00927), written out; on the data
    side with those of arXiv 2211.01095. `propose(error)` -> (accepted, factor).
    """
    lam, last, times, before = lam_of(START), lam_of(END), [START], x
    while lam < last:
        step = min(h, last - lam)
        step = last - lam if last - lam <= 1.001 * h else step
        (t, a, s), (t1, a1, s1) = levels(lam), levels(lam + step)
        r1, r2 = (0.5 if order == 2 else 1 / 3), 2 / 3
        here = predict(x, t)
        (m, am, sm), (q, aq, sq) = levels(lam + r1 * step), levels(lam + r2 * step)
        if side == NOISE:
            e, e1, e2 = math.expm1(step), math.expm1(r1 * step), math.expm1(r2 * step)
            late = predict(am / a * x - sm * e1 * here, m)
            ddim = a1 / a * x - s1 * e * here
            second = ddim - s1 / (2 * r1) * e * (late - here)
            low, high = ddim, second
            if order == 3:
                bent = aq / a * x - sq * e2 * here - sq * r2 / r1 * (e2 / (r2 * step) - 1) * (late - here)
                low, high = second, ddim - s1 / r2 * (e / step - 1) * (predict(bent, q) - here)
        else:
            e, e1, e2 = (math.expm1(-v * step) for v in (1.0, r1, r2))
            late = predict(sm / s * x - am * e1 * here, m)
            ddim = s1 / s * x - a1 * e * here
            second = ddim - a1 / (2 * r1) * e * (late - here)
            low, high = ddim, second
            if order == 3:
                bent = sq / s * x - aq * e2 * here + aq * r2 / r1 * (e2 / (r2 * step) + 1) * (late - here)
                low, high = second, ddim + a1 / r2 * (e / step + 1) * (predict(bent, q) - here)
        scale = torch.maximum(
            torch.tensor(atol, dtype=x.dtype), rtol * torch.maximum(low.abs(), before.abs())
        )
        accepted, factor = propose(float(((high - low) / scale).square().mean().sqrt()))
        if accepted:
            x, before, lam = high, low, lam + step
            times.append(END if lam >= last else t1)
        h = step * factor
    return times, x


class KDiffusion:
    """Its PIDStepSizeController, from its published numbers: the first attempt stands for those before it."""

    def __init__(self, p, i, d, order):
        self.powers = (p + i + d) / order, -(p + 2 * d) / order, d / order
        self.past = []

    def __call__(self, error):
        inverse = 1 / (error + 1e-8)
        self.past = self.past or [inverse, inverse]
        factor = inverse ** self.powers[0] * self.past[0] ** self.powers[1] * self.past[1] ** self.powers[2]
        factor = 1 + math.atan(factor - 1)
        if factor >= 0.81:
            self.past = [inverse, self.past[0]]
        return factor >= 0.81, factor


@pytest.mark.parametrize("pair", PAIRS, ids=str)
@pytest.mark.parametrize("control", [PUBLISHED, PID(), PID(0.2, 0.7, 0.1)], ids=str)
def test_the_accepted_steps_are_the_published_loop_s(pair, control):
    """Each sample's own, to round-off: DPM-Solver's controller and k-diffusion's."""
    x, (rtol, atol) = draws(3), (0.05, 0.0078)
    found = adapt(MODEL, x, pair, START, END, rtol=rtol, atol=atol, control=control)
    for b in range(3):

        def predict(state, t):
            alpha, sigma = (
                float(f(torch.tensor(t, dtype=torch.float64))) for f in (PROCESS.alpha, PROCESS.sigma)
            )
            data = MIXTURE.denoise(state[None], alpha, sigma)[0]
            return data if pair.prediction == DATA else (state - alpha * data) / sigma

        def propose(error):
            return error <= 1, 0.9 * error ** (-1 / pair.order)

        if isinstance(control, PID):
            propose = KDiffusion(control.p, control.i, control.d, pair.order)
        first = 0.005 * (lam_of(END) - lam_of(START))
        times, end = published(predict, x[b], pair.order, pair.prediction, rtol, atol, first, propose)
        assert found.grids[b].tolist() == pytest.approx(times, abs=1e-9)
        assert torch.allclose(found.state[b], end, rtol=0, atol=1e-9)


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_the_plan_is_the_search(pair):
    """Its states to round-off, its steps constants: the gradient is that of the pair's method on those steps."""
    x = draws(4).requires_grad_()
    found = adapt(MODEL, x, pair, START, END, rtol=1e-2)
    assert found.plan.name == str(pair.method) and not found.state.requires_grad
    assert len({len(grid) for grid in found.grids}) > 1  # the samples disagree
    out = run(MODEL, found.plan, x)
    assert torch.allclose(out, found.state, rtol=0, atol=1e-12)
    (gradient,) = torch.autograd.grad(out.square().sum(), x)
    for strategy in (Direct(), Checkpoint()):
        (again,) = torch.autograd.grad(sample(MODEL, found.plan, x, gradient=strategy).square().sum(), x)
        assert torch.allclose(again, gradient, rtol=0, atol=1e-12)
    for b in range(4):
        alone = x[b : b + 1].detach().requires_grad_()
        end = run(MODEL, pair.method.plan(PROCESS, found.grids[b]), alone)
        (own,) = torch.autograd.grad(end.square().sum(), alone)
        assert torch.allclose(own, gradient[b : b + 1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("pair", [AdaptiveDPM(2), AdaptiveDPM(3, DATA), GottaGoFast()], ids=str)
def test_batch_mates_change_nothing(pair):
    """Neither the steps nor the sample nor its cost; where the worst of a batch decides, they do."""
    x = torch.cat([draws(3), 40 * draws(1, seed=1)])
    path = Brownian(2, lam_of(START), lam_of(END), depth=30) if pair.stochastic else None
    whole = adapt(MODEL, x, pair, START, END, rtol=0.3, atol=0.3, noise=path)
    for b in range(4):
        own = path and Brownian(2, lam_of(START), lam_of(END), depth=30, samples=[b])
        alone = adapt(MODEL, x[b : b + 1], pair, START, END, rtol=0.3, atol=0.3, noise=own)
        assert torch.allclose(alone.grids[0], whole.grids[b], rtol=0, atol=1e-11)
        assert torch.allclose(alone.state, whole.state[b : b + 1], rtol=0, atol=1e-11)
        assert alone.calls == alone.batch_calls == whole.calls[b] and alone.attempts == whole.attempts[b]
        assert alone.plan.batch is None  # a plain plan
    shared = [accepted_times(MODEL, batch, START, END) for batch in (x[:3], x)]
    assert len(shared[0]) != len(shared[1])


@pytest.mark.slow
@pytest.mark.parametrize("pair, tolerances", [(AdaptiveDPM(2), (1e-3, 3e-5)), (AdaptiveDPM(3), (1e-3, 1e-6))])
def test_tighter_tolerances_give_smaller_errors(pair, tolerances):
    """Errors fall with the tolerance; the steps grow as tolerance^(-1/q)."""
    x = draws(3)
    truth = run(MODEL, DEIS(4, starter=True).plan(PROCESS, UniformLambda(800, start=START, end=END)), x)
    found = [adapt(MODEL, x, pair, START, END, rtol=tol, atol=tol) for tol in tolerances]
    errors = [float((each.state - truth).abs().mean()) for each in found]
    steps = [float((each.attempts - each.rejected).sum()) for each in found]
    decades = math.log10(tolerances[0] / tolerances[1])
    assert math.log10(errors[0] / errors[1]) > 0.7 * decades and errors[1] < 3 * tolerances[1]
    assert math.log10(steps[1] / steps[0]) / decades == pytest.approx(1 / pair.order, abs=0.08)


class Counted(nn.Module):
    calls = 0

    def forward(self, x, t, cond=None):
        self.calls += 1
        return MODEL(x, t, cond)


def test_every_call_is_counted():
    network, x, seen = Counted(), draws(3), []
    model = Denoiser(network, PROCESS, DATA)
    found = adapt(
        model, x, AdaptiveDPM(3), START, END, callback=lambda k, t, state: seen.append((k, t, state))
    )
    assert found.batch_calls == network.calls and int(found.calls.max()) <= network.calls
    assert torch.equal(found.calls, 3 * found.attempts - found.rejected) and int(found.rejected.sum()) > 0
    assert found.plan.nfe == 3 * max(len(grid) - 1 for grid in found.grids)
    assert [k for k, _, _ in seen] == list(range(int(found.attempts.max())))
    assert torch.equal(seen[-1][2], found.state) and seen[-1][1].tolist() == [END] * 3
    seen[-1][2].zero_()
    assert bool(found.state.any())


def test_the_times_serve_any_method():
    """Grids of unlike lengths become one table by halving last steps: no node is lost."""
    x = draws(5)
    found = adapt(MODEL, x, AdaptiveDPM(3), START, END, rtol=1e-2)
    times = found.times
    assert times.shape == (max(len(grid) for grid in found.grids), 5) and bool((times.diff(dim=0) < 0).all())
    assert all(set(grid.tolist()) <= set(times[:, b].tolist()) for b, grid in enumerate(found.grids))
    assert (run(MODEL, DPMSolverPP(2).plan(PROCESS, times), x) - found.state).abs().max() < 0.1
    short = adapt(MODEL, x[:1], AdaptiveDPM(3), START, END, rtol=10.0, atol=10.0)
    both = type(short)(short.plan, None, (short.grids[0], found.grids[0]), None, short.calls, short.calls, 0)
    assert both.times.shape == (max(len(short.grids[0]), len(found.grids[0])), 2)


def test_joint_states_and_conditioning():
    """The error of a sample is over all its leaves; a shift of the data is conditioning."""
    x, cond = draws(2), torch.tensor([0.5, -0.2], dtype=torch.float64)

    def network(tree, t, cond):
        both = MODEL(torch.cat([tree["a"], tree["b"]], 1), t, cond)
        return {"a": both[:, :1], "b": both[:, 1:]}

    joint = Denoiser(network, PROCESS, DATA)
    plain = adapt(MODEL, x, AdaptiveDPM(2), START, END, cond=cond)
    found = adapt(joint, {"a": x[:, :1], "b": x[:, 1:]}, AdaptiveDPM(2), START, END, cond=cond)
    assert all(torch.allclose(a, b) for a, b in zip(found.grids, plain.grids, strict=True))
    assert torch.allclose(torch.cat([found.state["a"], found.state["b"]], 1), plain.state)
    bare = adapt(MODEL, x, AdaptiveDPM(2), START, END)
    assert not torch.allclose(bare.state, plain.state, atol=0.1)
    half = adapt(MODEL, x.bfloat16(), AdaptiveDPM(2), START, END)
    assert half.state.dtype == torch.float32


def test_both_directions():
    """From data to noise and back, for a method without noise."""
    x = MIXTURE.means[:2].clone()
    up = adapt(MODEL, x, AdaptiveDPM(3), END, START, rtol=1e-4, atol=1e-4)
    down = adapt(MODEL, up.state, AdaptiveDPM(3), START, END, rtol=1e-4, atol=1e-4)
    assert all(bool((grid.diff() > 0).all()) for grid in up.grids)
    assert torch.allclose(down.state, x, atol=2e-3)


def test_what_goes_wrong_is_named():
    x, pair = draws(2), AdaptiveDPM(3)
    cut = Denoiser(lambda x, t: torch.where((t[:, None] < 0.5) & (x[:1] == x), math.nan, x), PROCESS, DATA)
    with pytest.raises(FloatingPointError, match=r"NaN or infinity in sample 0 at t=0\.\d+, expected finite"):
        adapt(cut, x, pair, START, END)
    with pytest.raises(
        RuntimeError, match=r"got 3 attempts at t=0\.\d+, expected the end t=0.02 .* \(\d+ network"
    ):
        adapt(MODEL, x, pair, START, END, most=3)
    jump = Denoiser(lambda x, t: torch.where(t[:, None] < 0.5, 100.0, 0.0).expand_as(x), PROCESS, DATA)
    with pytest.raises(
        RuntimeError, match=r"a step of .* of the way in sample 0 at t=0.5\d*, expected at least 0.001"
    ):
        adapt(jump, x, pair, START, END, rtol=1e-6, atol=1e-6, least=1e-3)
    wrong = {
        "two different finite": dict(end=0.0),
        "expected start and end in": dict(end=-1.0),
        "got PerStep": dict(cond=PerStep(torch.zeros(4, 2))),
        "got no noise for GottaGoFast": dict(pair=GottaGoFast()),
        "from noise to data": dict(pair=GottaGoFast(), start=END, end=START, noise=Brownian(0, -6.0, 6.0)),
        "expected inside": dict(pair=GottaGoFast(), noise=Brownian(0, -1.0, 1.0)),
        "rtol": dict(rtol=-1.0),
        "atol": dict(atol=0.0),
    }
    for words, change in wrong.items():
        with pytest.raises(ValueError, match=words):
            adapt(MODEL, x, **{"pair": pair, "start": START, "end": END} | change)
    with pytest.raises(ValueError, match="two different finite"):
        adapt(MIXTURE.denoiser(CosineVP()), x, pair, 1.0, 0.1)
    with pytest.raises(ValueError, match="order=4"):
        AdaptiveDPM(4)
    with pytest.raises(ValueError, match="expected NOISE"):
        AdaptiveDPM(2, V)
    with pytest.raises(ValueError, match=r"expected p \+ i \+ d > 0"):
        PID(0.0, 0.0, 0.0)


def test_an_empty_batch_is_refused():
    with pytest.raises(ValueError, match="got an empty batch, expected samples"):
        adapt(MIXTURE.denoiser(PROCESS), torch.zeros(0, 2), AdaptiveDPM(2), 0.9, 0.05, rtol=0.1, atol=0.1)


def test_vmap_is_refused_by_name():
    with pytest.raises(ValueError, match="got a call under torch.func.vmap, expected plain tensors"):
        torch.func.vmap(lambda x: adapt(MODEL, x, AdaptiveDPM(2), START, END).state)(
            torch.stack([draws(2)] * 2)
        )


@pytest.mark.parametrize("pair", [AdaptiveDPM(2), ExponentialHeun()], ids=lambda pair: type(pair).__name__)
def test_the_error_is_its_formula(pair):
    """Of each sample by itself; the units by the larger of two states, whichever it is."""
    x, low, high, before = (torch.tensor(v) for v in ([[4.0, 0.1]], [[1.0, 2.0]], [[1.5, 1.0]], [[3.0, 0.2]]))
    if isinstance(pair, ExponentialHeun):
        scale = [0.1 + 0.2 * 4.0, 0.1 + 0.2 * 2.0]
    else:
        scale = [max(0.1, 0.2 * 3.0), max(0.1, 0.2 * 2.0)]
    wanted = math.sqrt(((0.5 / scale[0]) ** 2 + (1.0 / scale[1]) ** 2) / 2)
    x, low, high, before = (torch.cat([v, 0 * v]) for v in (x, low, high, before))
    assert pair.error(x, low, high, before, 0.2, 0.1).tolist() == pytest.approx([wanted, 0.0])


@pytest.mark.parametrize(
    "control", [PID(0.3, 0.5, 0.2), IntegralControl(0.8), IntegralControl(exponent=0.7)], ids=str
)
@pytest.mark.parametrize("order", [2, 3])
def test_the_factor_is_its_formula(control, order):
    """Of the error and the two accepted before it, with every power told apart."""
    error, past = torch.tensor([0.3, 2.5, 1e9]), torch.tensor([[0.5, 1.7], [0.9, 0.2], [0.4, 0.6]])
    accepted, factor = control(error, past, order)
    for k in range(3):
        e0, e1, e2 = float(error[k]), *past[k].tolist()
        if isinstance(control, PID):
            p, i, d = control.p, control.i, control.d
            raw = e0 ** (-(p + i + d) / order) * e1 ** ((p + 2 * d) / order) * e2 ** (-d / order)
            wanted = 1 + math.atan(raw - 1)
            taken = wanted >= control.accept
        else:
            wanted = control.safety * e0 ** -(control.exponent or 1 / order)
            wanted, taken = min(max(wanted, control.low), control.high), e0 <= 1
        assert bool(accepted[k]) == taken
        assert float(factor[k]) == pytest.approx(wanted, rel=1e-6)


def test_one_grid_for_all_sees_the_conditioning():
    told = Denoiser(lambda x, t, c: torch.tanh(c * x), PROCESS, DATA)
    built_in = Denoiser(lambda x, t: torch.tanh(4.0 * x), PROCESS, DATA)
    x = draws(2)
    times = accepted_times(told, x, START, END, rtol=1e-3, atol=1e-3, cond=torch.tensor(4.0))
    assert torch.equal(times, accepted_times(built_in, x, START, END, rtol=1e-3, atol=1e-3))


def test_a_callback_sees_states_in_their_own_form():
    seen = []
    model = Denoiser(lambda z, t: {"a": 0.5 * z["a"]}, PROCESS, DATA)
    found = adapt(model, {"a": draws(2)}, AdaptiveDPM(2), START, END, callback=lambda k, t, x: seen.append(x))
    assert len(seen) == int(found.attempts.max()) and all(set(x) == {"a"} for x in seen)
    assert torch.equal(seen[-1]["a"], found.state["a"])
