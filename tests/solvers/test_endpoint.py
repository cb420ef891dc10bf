"""Mean reversion and bridges against their papers' own equations in x, and against Gaussian data in closed form."""

import math

import pytest
import torch

from pullback.adjoint import Checkpoint, Direct, Mechanism, Reversible, sample
from pullback.guidance import DPS, steer
from pullback.solvers import (
    DATA,
    DDIM,
    EDM,
    FLOW,
    MRS,
    NOISE,
    SCORE,
    VE,
    VP,
    CosineVP,
    Denoiser,
    DiffusionBridge,
    DPMSolverPP,
    EDMHeun,
    Endpoint,
    EndpointProcess,
    HybridHeun,
    MeanReverting,
    RectifiedFlow,
    Reverse,
    ReversibleHeun,
    SubVP,
    V,
    WithEndpoint,
    moments,
    run,
)

F64 = torch.float64
BASES = [EDM(t_max=5.0), VP(), VE(0.1, 3.0)]
MEAN, SLOPE, VAR = 0.3, 0.4, 0.5  # x_0 given the endpoint e is N(MEAN + SLOPE e, VAR)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def times(process, n):
    """n + 1 times from T to 0, both exactly, equally spaced in the angle of alpha and sigma."""
    angle = torch.linspace(0, math.pi / 2, n + 1, dtype=F64)
    t = process.time(angle.tan().log())
    t[0], t[-1] = process.t_max, process.t_min
    return t


def three(process, t):
    """(a, b, c) of x_t = a e + b x_0 + c eps by conditioning the Gaussian process of the base on both of its ends."""
    t, base, end = torch.as_tensor(t, dtype=F64), process.base, torch.tensor(process.t_max, dtype=F64)
    if isinstance(process, MeanReverting):
        return 1 - base.alpha(t), base.alpha(t), process.level * base.sigma(t)
    cov = base.alpha(end) / base.alpha(t) * base.sigma(t) ** 2  # of x_t and x_T, given x_0
    a = cov / base.sigma(end) ** 2
    return a, base.alpha(t) - a * base.alpha(end), (base.sigma(t) ** 2 - a * cov).clamp(min=0).sqrt()


def posterior(process):
    """E[x_0 | x_t, e], a network of x_t; e is taken as its conditioning."""

    def network(x, t, e):
        a, b, c = (v[:, None] for v in three(process, t))
        prior = MEAN + SLOPE * e
        safe = torch.where(c == 0, 1.0, c)
        gain = torch.where(c == 0, (b > 0.5) / b.clamp(min=0.5), b * VAR / (b**2 * VAR + safe**2))
        return prior + gain * (x - a * e - b * prior)

    return network


def model(process, prediction=DATA):
    """`posterior` as `prediction` of x_t: in x, by its definition there."""
    exact = posterior(process)

    def network(x, t, e):
        data = exact(x, t, e)
        if prediction == DATA:
            return data
        a, b, c = (v[:, None] for v in three(process, t))
        eps = (x - a * e - b * data) / c
        h = 1e-6
        up, down = three(process, t + h), three(process, t - h)
        rate = [((u - d) / (2 * h))[:, None] for u, d in zip(up, down, strict=True)]
        kinds = {
            NOISE: eps,
            SCORE: -eps / c,
            V: b * eps - c * data,
            FLOW: rate[0] * e + rate[1] * data + rate[2] * eps,
        }
        return kinds[prediction]

    return WithEndpoint(Denoiser(network, process, prediction))


# mean reversion


@pytest.mark.parametrize("base", [VP(), CosineVP()], ids=str)
def test_mean_reversion_is_its_sde(base):
    """E x_t and Var x_t solve dm = theta (mu - m) dt and dv = (2 level^2 theta - 2 theta v) dt."""
    process, x0, mu, t, h = MeanReverting(0.3, base), 1.7, -0.6, 0.4, 1e-5
    theta = -float(base.f(t))
    assert float(process.f(t)) == pytest.approx(-theta) and float(process.g2(t)) == pytest.approx(
        2 * 0.09 * theta
    )

    def mean(t):
        return float(
            process.state(process.alpha(t) * torch.full((1, 1), x0, dtype=F64), torch.full((1, 1), mu), t)
        )

    assert (mean(t + h) - mean(t - h)) / (2 * h) == pytest.approx(theta * (mu - mean(t)), rel=1e-8)
    assert mean(0.0) == x0


def test_the_table_of_ir_sde():
    """The cosine theta of the published code, level by level."""
    steps, end, s = 100, 0.005, 0.008

    def bar(i):
        return (
            math.cos((i / (steps + 2) + s) / (1 + s) * math.pi / 2) ** 2
            / math.cos(s / (1 + s) * math.pi / 2) ** 2
        )

    theta = [1 - bar(i) for i in range(1, steps + 2)]  # of levels 0 .. steps
    total = [sum(theta[: k + 1]) - theta[0] for k in range(steps + 1)]
    process = MeanReverting.ir_sde(0.2, steps, end)
    for k in range(steps + 1):
        alpha = math.exp(math.log(end) * total[k] / total[steps])
        assert float(process.alpha(k - 1.0)) == pytest.approx(alpha, rel=1e-12)
        assert float(process.sigma(k - 1.0)) == pytest.approx(0.2 * math.sqrt(1 - alpha**2), rel=1e-10)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("reverse", Reverse)
@pytest.mark.parametrize("want", [DATA, NOISE], ids=str)
def test_mrs_is_its_update_in_x(order, reverse, want):
    """The MR Sampler's updates with their terms in mu, on a network of x."""
    process, sde = MeanReverting(0.3), reverse is Reverse.SDE
    t = process.time(torch.tensor([-1.5, -0.9, -0.1, 0.6, 1.5, 2.6], dtype=F64))
    alpha, sigma, lam = process.alpha(t), process.sigma(t), process.lam(t)
    mu, noise, net = draw(4, 1, seed=1), draw(5, 4, 1, seed=2), model(process, want).denoiser
    x = start = process.state(draw(4, 1), mu, float(t[0]))
    before = None
    for i in range(5):
        h, p = lam[i + 1] - lam[i], net(x, t[i].expand(4), mu)
        slope = 0 * p if before is None or order == 1 else (p - before) / (lam[i] - lam[i - 1])
        a, s, before = alpha[i + 1], sigma[i + 1], p
        k = 2 if sde else 1
        if want == DATA:
            decay, level = s / sigma[i] * torch.exp(-(k - 1) * h), a * (1 - torch.exp(-k * h))
            x = decay * x + mu * (1 - decay - level) + level * p
            x = x + a * (h - (1 - torch.exp(-k * h)) / k) * slope
            spread = s * torch.sqrt(1 - torch.exp(-2 * h))
        else:
            x = (
                a / alpha[i] * x
                + mu * (1 - a / alpha[i])
                - k * s * ((h.exp() - 1) * p + (h.exp() - 1 - h) * slope)
            )
            spread = s * torch.sqrt(torch.exp(2 * h) - 1)
        x = x + spread * noise[i] * sde
    plan = MRS(order, want, reverse).plan(process, t)
    y = start - process.pull(t[0]) * mu
    out = run(model(process, want), plan, y, Endpoint(mu, mu), noise if sde else None)
    assert torch.allclose(process.state(out, mu, float(t[-1])), x, rtol=1e-12, atol=1e-13)


# bridges


@pytest.mark.parametrize(
    "base, end", [*((b, None) for b in BASES), (RectifiedFlow(), 0.8), (VP(), 0.6)], ids=str
)
def test_a_bridge_is_the_process_given_both_ends(base, end):
    process = DiffusionBridge(base, end)
    t = torch.linspace(process.t_min, process.t_max, 9, dtype=F64)[1:-1]
    for ours, exact in zip((process.pull(t), *(process.scale(t) * f(t) for f in (process.alpha, process.sigma))),
                           three(process, t), strict=True):  # fmt: skip
        assert torch.allclose(ours, exact, rtol=1e-11, atol=1e-14)
    e, y = draw(2, 3), draw(2, 3, seed=1)
    assert torch.equal(process.state(y, e, process.t_max), e)
    assert base.sigma(base.t_min) > 0 or torch.equal(process.state(y, e, process.t_min), y)


def test_the_published_table_of_the_ve_bridge():
    process, t = DiffusionBridge(EDM(t_max=80.0)), torch.tensor([0.01, 1.0, 30.0, 79.0], dtype=F64)
    part = (t / 80) ** 2
    for ours, table in zip(
        (process.pull(t), process.scale(t) * process.alpha(t), process.scale(t) * process.sigma(t)),
        (part, 1 - part, t * (1 - part).sqrt()),
        strict=True,
    ):
        assert torch.allclose(ours, table, rtol=1e-10)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("base", BASES, ids=str)
def test_dbim(base, eta):
    """x_n = a x_T + b D + sqrt(c^2 - rho^2) (x_{n+1} - a' x_T - b' D)/c' + rho xi with the base's SNR in rho, after a
    first step of booting noise.
    """
    process = DiffusionBridge(base)
    t = torch.linspace(process.t_max, process.t_min, 7, dtype=F64)[:-1]
    e, boot, noise = draw(4, 1, seed=1), draw(4, 1, seed=2), draw(5, 4, 1, seed=3)
    D, snr = posterior(process), lambda t: (base.alpha(t) / base.sigma(t)) ** 2
    a, b, c = three(process, t)
    # eta > 0 has a draw of its own in the first step: together they are one unit noise
    x = a[1] * e + b[1] * D(e, t[:1].expand(4), e) + c[1] * (math.sqrt(1 - eta**2) * boot + eta * noise[0])
    for n in range(1, 5):
        data = D(x, t[n].expand(4), e)
        rho = eta * base.sigma(t[n + 1]) * torch.sqrt(1 - snr(t[n]) / snr(t[n + 1]))
        eps = (x - a[n] * e - b[n] * data) / c[n]
        x = a[n + 1] * e + b[n + 1] * data + (c[n + 1] ** 2 - rho**2).sqrt() * eps + rho * noise[n]
    plan = DDIM(eta).plan(process, t)
    y = run(model(process), plan, process.start(e, boot), Endpoint(e, e), noise if eta else None)
    assert torch.allclose(process.state(y, e, float(t[-1])), x, rtol=1e-9, atol=1e-9)


def test_the_flow_takes_booting_noise_to_the_law_of_the_data():
    """x_0 = m + sqrt(v) z for the law N(m, v) of x_0 given e, from the pinned end to clean data."""
    process, e, z, errors = DiffusionBridge(EDM(t_max=5.0)), draw(6, 1), draw(6, 1, seed=1), []
    for n in (64, 128):
        plan = DDIM().plan(process, times(process, n))
        out = run(model(process), plan, process.start(e, z), Endpoint(e, e))
        errors.append(float((out - MEAN - SLOPE * e - math.sqrt(VAR) * z).abs().max()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(1, abs=0.05) and errors[1] < 6e-3


@pytest.mark.parametrize("process", [DiffusionBridge(VP()), MeanReverting(0.8)], ids=str)
@pytest.mark.parametrize("method", [DDIM(), DPMSolverPP(2), EDMHeun(), MRS(2, NOISE)], ids=str)
def test_the_flow_between_two_times_at_the_order_of_the_method(process, method):
    """y_t - alpha_t m is stretched as its deviation sqrt(alpha_t^2 v + sigma_t^2)."""
    e, y = draw(6, 1), draw(6, 1, seed=1)
    errors, mean = [], MEAN + SLOPE * e
    for n in (64, 128):
        t = process.time(torch.linspace(-2.0, 2.5, n + 1, dtype=F64))
        alpha, sigma = process.alpha(t), process.sigma(t)
        deviation = (alpha**2 * VAR + sigma**2).sqrt()
        exact = alpha[-1] * mean + deviation[-1] / deviation[0] * (y - alpha[0] * mean)
        errors.append(
            float((run(model(process), method.plan(process, t), y, Endpoint(e, e)) - exact).abs().max())
        )
    assert math.log2(errors[0] / errors[1]) == pytest.approx(method.order, abs=0.15)


@pytest.mark.parametrize("method", [DDIM(1.0), HybridHeun()], ids=str)
def test_the_sde_of_a_bridge_ends_in_the_law_of_the_data(method):
    process, errors = DiffusionBridge(EDM(t_max=5.0)), []
    for n in (100, 200):
        mean, variance = moments(method.plan(process, times(process, n)), MEAN, VAR, 0.0, 1.0)
        assert mean == pytest.approx(MEAN)
        errors.append(abs(variance - VAR))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(1, abs=0.15) and errors[1] < 0.02


@pytest.mark.parametrize("process", [DiffusionBridge(VP()), MeanReverting(0.4)], ids=str)
@pytest.mark.parametrize("prediction", [NOISE, SCORE, V, FLOW], ids=str)
def test_any_prediction_of_x_gives_the_same_sample(process, prediction):
    e, y = draw(3, 1), draw(3, 1, seed=1)
    plan = DPMSolverPP(2).plan(process, torch.linspace(0.9, 0.1, 7, dtype=F64))
    first = run(model(process), plan, y, Endpoint(e, e))
    assert torch.allclose(
        run(model(process, prediction), plan, y, Endpoint(e, e)), first, rtol=1e-7, atol=1e-7
    )


@pytest.mark.parametrize(
    "process", [MeanReverting(0.4), DiffusionBridge(VP()), DiffusionBridge(EDM(), 0.1)], ids=str
)
def test_times_start_and_what_float32_makes_of_the_end(process):
    """lambda is undone by time; every level has the times' shape and is finite at T rounded to float32."""
    t = torch.linspace(0.02, 0.98, 5, dtype=F64) * process.t_max
    assert torch.allclose(process.time(process.lam(t)), t, rtol=1e-9)
    end = torch.tensor([process.t_max], dtype=torch.float32)
    for level in (process.pull, process.scale, process.alpha, process.sigma):
        assert level(t).shape == t.shape and not bool(level(end).isnan().any())
    e, noise = draw(3, 2), draw(3, 2, seed=1)
    x = process.state(process.start(e, noise), e, process.t_max)
    spread = (
        process.level if isinstance(process, MeanReverting) else 0.0
    )  # x_T is mu with noise on it, or e alone
    assert torch.allclose(x, e + spread * noise, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("prediction", [NOISE, FLOW], ids=str)
def test_an_endpoint_of_another_precision_leaves_the_state_s(prediction):
    process, seen = MeanReverting(0.3), []

    def network(x, t):
        seen.append(x.dtype)
        return 0.1 * x

    outs = []
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        end = draw(2, 3).bfloat16().to(dtype)
        plan = DDIM().plan(process, torch.linspace(0.9, 0.1, 4, dtype=F64))
        denoiser = WithEndpoint(Denoiser(network, process, prediction))
        outs.append(run(denoiser, plan, draw(2, 3, seed=1).float(), Endpoint(end)))
    assert set(seen) == {torch.float32} and torch.equal(outs[0], outs[1]) and torch.equal(outs[0], outs[2])


# gradients


class Network(torch.nn.Module):
    """A small network of x_t and of the endpoint."""

    def __init__(self):
        super().__init__()
        self.body = torch.nn.Sequential(
            torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)
        ).double()

    def forward(self, x, t, e):
        return self.body(torch.cat([x, e, t[:, None]], 1))


def test_gradients_reach_the_endpoint_and_the_booting_noise():
    """Every exact strategy against plain autograd through the paper's loop in x."""
    torch.manual_seed(0)
    process, net = DiffusionBridge(EDM(t_max=5.0)), Network()
    t = torch.tensor([5.0, 4.5, 3.0, 1.5, 0.5], dtype=F64)
    e, boot = draw(3, 2).requires_grad_(), draw(3, 2, seed=1).requires_grad_()
    inputs = [e, boot, *net.parameters()]
    a, b, c = three(process, t)
    x = a[1] * e + b[1] * net(e, t[:1].expand(3), e) + c[1] * boot
    for n in range(1, 4):
        data = net(x, t[n].expand(3), e)
        x = a[n + 1] * e + b[n + 1] * data + c[n + 1] / c[n] * (x - a[n] * e - b[n] * data)
    wanted = torch.autograd.grad(x.square().sum(), inputs)
    given = {"denoiser": WithEndpoint(Denoiser(net, process, DATA)), "plan": DDIM().plan(process, t)}
    for strategy in (Direct(), Checkpoint(), Checkpoint(mechanism=Mechanism.REGION)):
        y = sample(**given, x=process.start(e, boot), cond=Endpoint(e, e), gradient=strategy)
        got = torch.autograd.grad(process.state(y, e, 0.5).square().sum(), inputs)
        assert all(torch.allclose(g, w, rtol=1e-10, atol=1e-12) for g, w in zip(got, wanted, strict=True)), (
            strategy
        )


def test_reversible_plans_run_on_a_bridge():
    torch.manual_seed(0)
    process, net = DiffusionBridge(VP()), Network()
    plan = ReversibleHeun().plan(process, torch.linspace(1.0, 0.0, 7, dtype=F64))
    e, boot = draw(3, 2).requires_grad_(), draw(3, 2, seed=1).requires_grad_()
    found = []
    for strategy in (Direct(), Reversible()):
        out = sample(
            WithEndpoint(Denoiser(net, process, DATA)), plan, boot, cond=Endpoint(e, e), gradient=strategy
        )
        found.append(torch.autograd.grad(out.square().sum(), [e, boot, *net.parameters()]))
    assert all(torch.allclose(a, b, rtol=1e-10, atol=1e-12) for a, b in zip(*found, strict=True))


def test_a_guide_steers_it_as_any_model():
    """DPS on a bridge is DPS on the pair (alpha, sigma) with the same data prediction."""
    process, e, boot = DiffusionBridge(VP()), draw(3, 1), draw(3, 1, seed=1)
    plan = DDIM().plan(process, torch.linspace(1.0, 0.1, 7, dtype=F64))

    def centred(y, t):
        alpha, sigma = process.alpha(t)[:, None], process.sigma(t)[:, None]
        prior = MEAN + SLOPE * e
        return prior + alpha * VAR / (alpha**2 * VAR + sigma**2) * (y - alpha * prior)

    guide = DPS(lambda x: (x - 1.0).square().sum(1))
    found = steer(model(process), plan, boot, guide, cond=Endpoint(e, e)).sample
    assert torch.allclose(found, steer(Denoiser(centred, process, DATA), plan, boot, guide).sample, rtol=1e-9)


# refusals


def test_what_does_not_fit_is_named():
    process = DiffusionBridge(VP())
    plan, e = DDIM().plan(process, torch.tensor([1.0, 0.5], dtype=F64)), draw(2, 1)
    with pytest.raises(TypeError, match=r"cond: got .* expected Endpoint\(end, cond\)"):
        run(model(process), plan, e, e)
    for wrong in (draw(3, 1), draw(2, 2)):
        with pytest.raises(ValueError, match=r"Endpoint: got end=.*, expected a tensor \(2, 1\)"):
            run(model(process), plan, e, Endpoint(wrong, e))
    with pytest.raises(TypeError, match="denoiser.process: got a VP"):
        WithEndpoint(Denoiser(lambda x, t: x, VP(), DATA))
    with pytest.raises(ValueError, match="got a V network at t=1, where the state is the endpoint alone"):
        run(model(process, V), plan, e, Endpoint(e, e))
    with pytest.raises(ValueError, match="does not determine"):
        run(model(process, NOISE), plan, e, Endpoint(e, e))
    with pytest.raises(ValueError, match=r"DiffusionBridge: got end=1\.0 on RectifiedFlow"):
        DiffusionBridge(RectifiedFlow())
    for end in (1.5, 0.0, -0.1):
        with pytest.raises(ValueError, match=f"DiffusionBridge: got end={end} on VP"):
            DiffusionBridge(VP(), end)
    with pytest.raises(ValueError, match="MeanReverting: got SubVP"):
        MeanReverting(0.2, SubVP())
    with pytest.raises(ValueError, match="MRS: got want="):
        MRS(2, V)
    assert issubclass(MeanReverting, EndpointProcess) and "MeanReverting" in str(MeanReverting(0.2))
