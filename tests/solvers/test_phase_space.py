"""Position and momentum: the process against its SDE, samplers against Gaussian data in closed form, whose score is
linear, so that mean and covariance push through a plan exactly.
"""

import math
import pickle

import pytest
import torch

from pullback.adjoint import Checkpoint, Direct, Mechanism, sample
from pullback.solvers import (
    DDIM,
    SCORE,
    SSCS,
    VP,
    Addressed,
    CholeskyNoise,
    ConjugateDDIM,
    ConjugateParts,
    Denoiser,
    GivenNoise,
    Keywords,
    Mixing,
    PhaseEulerMaruyama,
    PhaseMethod,
    PhaseSpaceLangevin,
    ReducedOBA,
    ReducedVerlet,
    Reverse,
    UniformT,
    run,
)
from pullback.solvers.phase_space.method import spread

F64 = torch.float64
MEAN, VAR = 0.7, 0.3
PSLD, CLD = PhaseSpaceLangevin(t_min=0.02), PhaseSpaceLangevin.cld()
# milder than these, so that few steps show the order: with and without noise on the position, beta constant and not
BOTH = PhaseSpaceLangevin(0.5, 3.0, beta_min=2.0, beta_max=10.0, t_min=0.05)
MOMENTUM = PhaseSpaceLangevin(0.0, 3.0, beta_min=4.0, beta_max=4.0, kappa=0.3, t_min=0.1)
ODE = [
    ConjugateDDIM(),
    ConjugateDDIM(lam=0.5),
    ConjugateDDIM(2),
    SSCS(1, Reverse.ODE),
    SSCS(2, Reverse.ODE),
    PhaseEulerMaruyama(Reverse.ODE),
    ReducedVerlet(),
    ReducedVerlet(ConjugateParts(-0.5)),
]
SDE = [PhaseEulerMaruyama(), SSCS(1), SSCS(2), ReducedOBA(), ReducedOBA(ConjugateParts(-0.5))]


def law(process, u):
    """Mean (..., 2) and covariance (..., 2, 2) of z at clock u for data N(MEAN, VAR)."""
    flow = process.flow(u)
    data = torch.diag(torch.tensor([VAR, 0.0], dtype=F64))
    return MEAN * flow[..., 0], process.covariance(u) + flow @ data @ flow.mT


def denoiser(process):
    """The exact score of one-dimensional Gaussian data."""

    def network(z, t):
        mean, cov = law(process, process.clock(t))
        return -torch.linalg.solve(cov.to(z), (z - mean.to(z))[..., None])[..., 0]

    return Denoiser(network, process, SCORE)


def pushed(plan):
    """(c, J): the sample of an affine network is c + J (z, xi_0, xi_1, ...), J (2, 2 + 2 slots)."""
    slots, size = plan.slots, 2 + 2 * plan.slots
    z, noise = torch.zeros(1 + size, 2, dtype=F64), torch.zeros(max(slots, 1), 1 + size, 2, dtype=F64)
    z[1:3] = torch.eye(2)
    for k in range(slots):
        noise[k, 3 + 2 * k : 5 + 2 * k] = torch.eye(2)
    out = run(denoiser(plan.process), plan, z, noise=GivenNoise(noise) if slots else None)
    return out[0], (out[1:] - out[0]).T


def arrival(method, process, n):
    """Mean and covariance of the sample of a plan that starts from the exact law, and its covariance with the start."""
    plan = method.plan(process, UniformT(n))
    c, jacobian = pushed(plan)
    mean, cov = law(process, process.clock(process.t_max))
    flow = jacobian[:, :2]
    return c + flow @ mean, flow @ cov @ flow.T + jacobian[:, 2:] @ jacobian[:, 2:].T


def errors(method, process, counts):
    mean, cov = law(process, process.clock(process.t_min))
    found = [arrival(method, process, n) for n in counts]
    return [float((m - mean).norm() + (s - cov).norm()) for m, s in found]


def rk4(field, z, start, end, n=150):
    """z at clock `end` of dz/du = field(u, z), by Runge and Kutta's method."""
    u, h = start, (end - start) / n
    for _ in range(n):
        k1 = field(u, z)
        k2 = field(u + h / 2, z + h / 2 * k1)
        k3 = field(u + h / 2, z + h / 2 * k2)
        k4 = field(u + h, z + h * k3)
        u, z = u + h, z + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return z


# the process


@pytest.mark.parametrize("process", [PSLD, CLD, BOTH], ids=["psld", "cld", "both"])
def test_the_process_is_its_sde(process):
    """d/dt of mean and covariance by finite differences against beta (A m) and beta (A P + P A^T + D)."""
    t, h = 0.37, 1e-6
    beta, A, D = float(process.beta(t)), process.drift, process.diffusion
    (up, up2), (down, down2), (mean, cov) = (law(process, process.clock(v)) for v in (t + h, t - h, t))
    assert torch.allclose((up - down) / (2 * h), beta * A @ mean, atol=1e-8)
    assert torch.allclose((up2 - down2) / (2 * h), beta * (A @ cov + cov @ A.T + D), atol=1e-7)
    assert torch.allclose(
        process.drift @ process.rest + process.rest @ process.drift.T, -D
    )  # at rest in N(0, S)
    assert float(process.alpha(t)) * MEAN == pytest.approx(float(mean[0]))
    assert float(process.time_at(process.clock(t))) == pytest.approx(t)


def test_cld_is_its_own_equation():
    """dx = (beta/M) m dt, dm = -beta (x + Gamma m/M) dt + sqrt(2 Gamma beta) dw Gamma^2 = 4 M = 1, beta = 4."""
    mass = CLD.mass
    assert mass == 0.25
    assert torch.allclose(8 * CLD.drift, 4 * torch.tensor([[0, 1 / mass], [-1, -1 / mass]], dtype=F64))
    assert torch.allclose(8 * CLD.diffusion, torch.diag(torch.tensor([0.0, 2 * 4], dtype=F64)))


def test_cld_of_any_friction():
    """Its own parameters in its own equation, the momentum's first variance among them; and where sampling starts."""
    friction, beta, kappa = 0.7, 3.0, 0.2
    process = PhaseSpaceLangevin.cld(friction, beta, kappa)
    mass, rate = friction**2 / 4, float(process.beta(0.3))
    wanted = beta * torch.tensor([[0, 1 / mass], [-1, -friction / mass]], dtype=F64)
    assert torch.allclose(rate * process.drift, wanted)
    assert torch.allclose(
        rate * process.diffusion, torch.diag(torch.tensor([0.0, 2 * friction * beta], dtype=F64))
    )
    assert float(process.covariance(0.0)[1, 1]) == pytest.approx(kappa * mass)
    start = process.start(torch.eye(2, dtype=F64))
    assert torch.allclose(start.T @ start, process.rest)


@pytest.mark.parametrize("process", [PSLD, CLD, BOTH], ids=["psld", "cld", "both"])
def test_alpha_and_sigma_are_the_position_s(process):
    t = torch.tensor([0.1, 0.5, 0.9], dtype=F64)
    u = process.clock(t)
    assert torch.allclose(process.alpha(t), process.flow(u)[:, 0, 0])
    assert torch.allclose(process.sigma(t) ** 2, process.covariance(u)[:, 0, 0])


@pytest.mark.parametrize("process", [PSLD, CLD], ids=["psld", "cld"])
def test_the_noise_of_a_long_step_is_rest(process):
    """K = -A - D S^-1 comes to rest in N(0, S): what the spread over any long time is."""
    linear = -process.drift - process.diffusion @ torch.linalg.inv(process.rest)
    lower = spread(Mixing(linear), Mixing(process.diffusion), 300.0).values
    assert torch.allclose(lower @ lower.T, process.rest, rtol=1e-9, atol=1e-9)


def test_noise_predictions_in_any_answer():
    """By keywords, from an output object, of half the precision: the arithmetic around it is the state's."""
    z, t = torch.randn(5, 2, dtype=torch.float32), torch.full((5,), 0.3, dtype=torch.float32)
    eps = torch.randn(5, 2, dtype=torch.float32).bfloat16()

    def named(z, t, *, gain):
        return {"sample": (gain * eps).to(z.dtype)}

    told = Denoiser(named, PSLD, SCORE, torch.bfloat16, call=CholeskyNoise(PSLD, Keywords()))
    plain = Denoiser(lambda z, t: 2.0 * eps.float(), PSLD, SCORE, call=CholeskyNoise(PSLD))
    assert torch.allclose(told(z, t, {"gain": 2.0}), plain(z, t), rtol=1e-6)


def test_noise_predictions_become_the_score():
    """-L^-T eps, and the momentum's half alone."""
    z, t = torch.randn(5, 2, dtype=F64), torch.full((5,), 0.3, dtype=F64)
    for process in (PSLD, CLD):
        lower = torch.linalg.cholesky(process.covariance(process.clock(0.3)))
        eps = torch.randn(5, 2, dtype=F64)
        exact = -torch.linalg.solve(lower.T, eps.T).T
        call = CholeskyNoise(process)
        assert torch.allclose(Denoiser(lambda z, t, e=eps: e, process, SCORE, call=call)(z, t), exact)
        half = Denoiser(lambda z, t, e=eps: e[:, 1:], process, SCORE, call=call)
        if process is CLD:
            assert torch.allclose(half(z, t)[:, 1], exact[:, 1]) and not half(z, t)[:, 0].any()
        else:
            with pytest.raises(ValueError, match="got the momentum's half alone"):
                half(z, t)


# the samplers


@pytest.mark.parametrize("process", [BOTH, MOMENTUM], ids=["both", "momentum"])
@pytest.mark.parametrize("method", [*ODE, *SDE], ids=str)
def test_mean_and_covariance_converge_at_the_order(method, process):
    low, high = errors(method, process, (32, 64))
    assert math.log2(low / high) == pytest.approx(method.order, abs=0.3)


def test_one_step_against_the_published_updates():
    """Each update written out in x and m."""
    process, h = CLD, 8 * 0.1
    z, s = torch.tensor([[0.4, -0.3]], dtype=F64), torch.tensor([[0.6, -1.1]], dtype=F64)
    fixed = Denoiser(lambda z, t: s + 0 * z, process, SCORE)
    x, m, mass, nu = 0.4, -0.3, process.mass, process.nu

    def one(method, noise=None):
        return run(fixed, method.plan(process, torch.tensor([0.6, 0.5], dtype=F64)), z, noise=noise)[
            0
        ].tolist()

    # the splitting without its noise: v + 2 Gamma beta (score + v/M) dt between two halves of dx = -v/(2 M), dv = x/2 -
    # nu v/2 in u
    linear = torch.tensor([[0, -1 / (2 * mass)], [0.5, -nu / 2]], dtype=F64)
    half = torch.linalg.matrix_exp(h / 2 * linear)
    between = half @ z[0]
    between[1] += 2 * 4 * 0.1 * (-1.1 + between[1] / mass)
    assert one(SSCS(), torch.zeros(2, 1, 2, dtype=F64)) == pytest.approx((half @ between).tolist())
    # Euler-Maruyama
    xi = torch.tensor([[[0.0, 0.8]]], dtype=F64)
    up = m + h * (x / 2 + nu * m / 2 + mass * nu * -1.1) + math.sqrt(h * mass * nu) * 0.8
    assert one(PhaseEulerMaruyama(), xi) == pytest.approx([x - h * m / mass / 2, up])
    # velocity Verlet
    half = m + h / 4 * (x + nu * m + mass * nu * -1.1)
    moved = x - h / 2 * half / mass
    assert one(ReducedVerlet()) == pytest.approx(
        [moved, half + h / 4 * (moved + nu * half + mass * nu * -1.1)]
    )


def test_a_step_of_oba_written_out():
    """Damping and noise exactly, then momentum and position by Euler with one score, which is of the state between."""
    process, xi, z = BOTH, torch.tensor([0.8, -0.5], dtype=F64), torch.tensor([[0.4, -0.3]], dtype=F64)
    plan = ReducedOBA().plan(process, torch.tensor([0.6, 0.55], dtype=F64))
    x, m = run(denoiser(process), plan, z, noise=GivenNoise(xi.reshape(1, 1, 2)))[0].tolist()
    h, mass = float(process.clock(0.6) - process.clock(0.55)), 4 / 2.5**2
    damped = torch.tensor([
        math.exp(-0.25 * h) * 0.4 + math.sqrt(1 - math.exp(-0.5 * h)) * 0.8,
        math.exp(-1.5 * h) * -0.3 - math.sqrt(mass * (1 - math.exp(-3 * h))) * 0.5,
    ])  # fmt: skip
    s = denoiser(process)(damped[None].to(F64), torch.tensor([0.6], dtype=F64))[0]
    kicked = damped[1] + h * (damped[0] / 2 + 3 * damped[1] + mass * 3 * s[1])
    assert m == pytest.approx(float(kicked))
    assert x == pytest.approx(float(damped[0] + h * (damped[0] / 2 - kicked / (2 * mass) + s[0] / 2)))


@pytest.mark.parametrize("lam", [0.0, 0.7])
@pytest.mark.parametrize("method", [ReducedVerlet, ReducedOBA])
def test_conjugate_parts_solve_their_linear_equations(method, lam):
    """Half of z at a time by 60 steps of RK4, eps constant, from (1 - lam h) of it and with its rate raised by lam."""
    process, eps = BOTH, torch.tensor([0.5, -0.9], dtype=F64)
    start, end = process.clock(0.6), process.clock(0.55)

    def network(z, t):
        lower = torch.linalg.cholesky(process.covariance(process.clock(t)))
        return -torch.linalg.solve(lower.mT, eps.expand(len(z), 2)[..., None])[..., 0]

    def part(z, row, share, begin, stop):
        rate = torch.tensor([share * process.gamma, share * process.nu], dtype=F64)[row] + lam

        def field(u, z):
            score = -torch.linalg.solve(torch.linalg.cholesky(process.covariance(u)).T, eps)
            other = -process.drift[row, 1 - row] * z[:, 1 - row]
            moved = rate * z[:, row] + other + share * process.diffusion[row, row] * score[row]
            return -torch.stack([moved * (row == k) for k in (0, 1)], 1)

        z = z.clone()
        z[:, row] *= 1 - lam * (begin - stop)
        return rk4(field, z, begin, stop, 60)

    x = torch.randn(3, 2, dtype=F64)
    plan = method(ConjugateParts(lam)).plan(process, torch.tensor([0.6, 0.55], dtype=F64))
    noise = GivenNoise(torch.zeros(1, 3, 2, dtype=F64)) if plan.slots else None
    found = run(Denoiser(network, process, SCORE), plan, x, noise=noise)
    if method is ReducedVerlet:
        middle = (start + end) / 2
        moves = [(1, 0.5, start, middle), (0, 0.5, start, end), (1, 0.5, middle, end)]
    else:
        x = x * torch.exp(-torch.tensor([process.gamma, process.nu], dtype=F64) / 2 * (start - end))
        moves = [(1, 1.0, start, end), (0, 1.0, start, end)]
    for move in moves:
        x = part(x, *move)
    assert torch.allclose(found, x, rtol=1e-8, atol=1e-8)


def test_what_verlet_leaves_out_is_the_force_of_the_momentum():
    """A step less the flow is -(h^2/4) (df/dm) f in m and O(h^3) in x, f = dm/du', where gamma = 0."""
    process, t = MOMENTUM, 0.5
    z = torch.tensor([[1.4, 0.6]], dtype=F64)

    def rates(u, z):  # dz/du' of the flow
        mean, cov = law(process, u)
        return -z @ process.drift.T - (z - mean) @ torch.linalg.inv(cov) @ process.diffusion / 2

    f, by_m = rates(process.clock(t), z)[0, 1], rates(process.clock(t), torch.eye(2, dtype=F64))[1, 1]
    by_m = by_m - rates(process.clock(t), torch.zeros(1, 2, dtype=F64))[0, 1]
    off = []
    for h in (0.01, 0.005):
        end = float(process.time_at(process.clock(t) - h))
        step = run(denoiser(process), ReducedVerlet().plan(process, torch.tensor([t, end], dtype=F64)), z)
        off.append(
            (step - rk4(lambda u, z: -rates(u, z), z, process.clock(t), process.clock(end), 4))[0] / h**2
        )
    assert float(2 * off[1][1] - off[0][1]) == pytest.approx(float(-by_m * f / 4), rel=2e-2)
    assert float(off[0][0] / off[1][0]) == pytest.approx(2.0, rel=0.1)


def test_where_beta_and_the_score_vary_they_are_those_of_the_step_s_start():
    """One step of SSCS(1) and of Euler: the score and beta at the first time alone."""
    t, z = torch.tensor([0.6, 0.5], dtype=F64), torch.tensor([[0.4, -0.3]], dtype=F64)
    asked = []

    def network(z, t):
        asked.append(float(t[0]))
        return torch.stack([1.0 + t, -t], 1)

    model = Denoiser(network, BOTH, SCORE)
    out = run(model, PhaseEulerMaruyama(Reverse.ODE).plan(BOTH, t), z)
    k = float(BOTH.beta(0.6)) * 0.1
    score = torch.tensor([[1.6, -0.6]], dtype=F64)
    assert torch.allclose(out, z - k * z @ BOTH.drift.T + k / 2 * score @ BOTH.diffusion.T)
    run(model, SSCS(1).plan(BOTH, t), z, noise=Addressed(0))
    assert asked == [0.6, 0.6]


def test_sscs_is_exact_at_rest():
    """Data that are at rest already stay there whatever the step: the rest of the splitting is zero."""
    process = CLD
    cov = process.rest

    def network(z, t):
        return -torch.linalg.solve(cov, z.T).T

    for reverse in Reverse:
        plan = SSCS(1, reverse).plan(process, UniformT(3))
        size = 2 + 2 * plan.slots
        noise = torch.zeros(max(plan.slots, 1), size, 2, dtype=F64)
        for k in range(plan.slots):
            noise[k, 2 + 2 * k : 4 + 2 * k] = torch.eye(2)
        start = torch.cat([torch.eye(2), torch.zeros(size - 2, 2)]).to(F64)
        out = run(
            Denoiser(network, process, SCORE), plan, start, noise=GivenNoise(noise) if plan.slots else None
        ).T
        found = out[:, :2] @ cov @ out[:, :2].T + out[:, 2:] @ out[:, 2:].T
        assert torch.allclose(found, cov, rtol=1e-12, atol=1e-12)


def test_conjugate_of_constant_noise_is_exact():
    """One step of order 1 where eps is constant solves dz = (A z + (D/2) L^-T eps) du: by 150 steps of RK4 in u."""
    process, eps = PSLD, torch.tensor([0.5, -0.9], dtype=F64)

    def network(z, t):
        lower = torch.linalg.cholesky(process.covariance(process.clock(t)))
        return -torch.linalg.solve(lower.mT, eps.expand(len(z), 2)[..., None])[..., 0]

    def field(u, z):
        lower = torch.linalg.cholesky(process.covariance(u))
        return z @ process.drift.T + process.diffusion @ torch.linalg.solve(lower.T, eps) / 2

    x = torch.randn(3, 2, dtype=F64)
    once = run(
        Denoiser(network, process, SCORE), ConjugateDDIM().plan(process, UniformT(1, start=0.9, end=0.6)), x
    )
    assert torch.allclose(once, rk4(field, x, process.clock(0.9), process.clock(0.6)), rtol=1e-8, atol=1e-8)


# gradients and what a plan can do


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Sequential(
            torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 4)
        ).double()

    def forward(self, z, t):
        return self.body(torch.cat([z, t[:, None]], 1))


@pytest.mark.parametrize(
    "method",
    [ConjugateDDIM(2), SSCS(2), ReducedVerlet(), ReducedOBA(ConjugateParts()), PhaseEulerMaruyama()],
    ids=str,
)
def test_exact_strategies_agree(method):
    torch.manual_seed(0)
    net, plan = Network(), method.plan(PSLD, UniformT(4))
    z = PSLD.start(torch.randn(3, 4, dtype=F64)).requires_grad_()
    noise = torch.randn(max(plan.slots, 1), 3, 4, dtype=F64).requires_grad_() if plan.slots else None
    inputs = [z, *net.parameters(), *([noise] if plan.slots else [])]
    found = []
    for strategy in (Direct(), Checkpoint(), Checkpoint(mechanism=Mechanism.REGION)):
        out = sample(Denoiser(net, PSLD, SCORE), plan, z, noise=noise, gradient=strategy)
        found.append([out.detach(), *torch.autograd.grad(out.square().sum(), inputs)])
    for other in found[1:]:
        assert all(torch.allclose(a, b, rtol=1e-11, atol=1e-12) for a, b in zip(found[0], other, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [ConjugateDDIM(2), SSCS(2, Reverse.ODE), ReducedVerlet(), ReducedVerlet(ConjugateParts())],
    ids=str,
)
def test_the_gradient_converges_at_the_order(method):
    """dz_0/dz_T of the flow dz = (A + D P^-1/2) z du, P = Cov z."""

    def field(u, z):
        return (BOTH.drift + BOTH.diffusion @ torch.linalg.inv(law(BOTH, u)[1]) / 2) @ z

    truth = rk4(field, torch.eye(2, dtype=F64), BOTH.clock(BOTH.t_max), BOTH.clock(BOTH.t_min))
    low, high = (float((pushed(method.plan(BOTH, UniformT(n)))[1] - truth).norm()) for n in (48, 96))
    assert math.log2(low / high) == pytest.approx(method.order, abs=0.25)


@pytest.mark.parametrize("method", [*ODE, *SDE], ids=str)
def test_plans_pickle_compare_stack_and_run_short(method):
    plan = method.plan(CLD, UniformT(3))
    assert pickle.loads(pickle.dumps(plan)) == plan and "Mixing" in str(plan)
    grids = torch.stack([torch.linspace(1.0, e, 3, dtype=F64) for e in (0.1, 0.3)], 1)
    z, noise = torch.randn(2, 2, dtype=F64), Addressed(3) if plan.stochastic else None
    both = run(denoiser(CLD), method.plan(CLD, grids), z, noise=noise)
    alone = run(denoiser(CLD), method.plan(CLD, grids[:, 1]), z, noise=noise)
    assert torch.allclose(both[1], alone[1], rtol=1e-10)
    assert run(denoiser(CLD), method.plan(CLD, UniformT(1)), z, noise=noise).isfinite().all()


def test_what_does_not_fit_is_named():
    assert issubclass(SSCS, PhaseMethod)
    with pytest.raises(TypeError, match="expected a PhaseSpaceLangevin"):
        SSCS().plan(VP(), UniformT(3))
    with pytest.raises(ValueError, match="gamma = nu"):
        PhaseSpaceLangevin(2.0, 2.0)
    with pytest.raises(ValueError, match=r"lam=0\.5 with order=2"):
        ConjugateDDIM(2, 0.5)
    with pytest.raises(
        ValueError, match="got a SCORE network and a plan that asks for DATA, expected SCORE: alpha"
    ):
        run(denoiser(CLD), DDIM().plan(CLD, UniformT(2)), torch.randn(1, 2))
