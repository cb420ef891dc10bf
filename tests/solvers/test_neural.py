"""Drift and diffusion of one's own, as plans: geometric Brownian motion and Ornstein-Uhlenbeck in closed form,
torchsde's reversible Heun, and controlled equations along a path.
"""

import math
import pickle
from typing import Any

import pytest
import torch
import torchsde

from pullback.adjoint import Checkpoint, Direct, Mechanism, PerStep, Reversible, sample
from pullback.adjoint.bridges.cells import Cells
from pullback.solvers import (
    DDIM,
    FLOW,
    VP,
    Addressed,
    Clock,
    Denoiser,
    DriftDiffusion,
    DriftMethod,
    FlowHeun,
    FlowMidpoint,
    GivenNoise,
    ItoEuler,
    Rising,
    StratonovichHeun,
    StratonovichMidpoint,
    StratonovichReversibleHeun,
    UniformT,
    decode,
    encode,
    run,
)

F64 = torch.float64
FINE, LENGTH = 512, 1.0
CLOCK = Clock(0.0, LENGTH)
STRATONOVICH = [StratonovichHeun(), StratonovichMidpoint(), StratonovichReversibleHeun()]
METHODS = [ItoEuler(), *STRATONOVICH]


def path(batch=400, seed=0):
    """Unit draws of FINE steps, (FINE, batch, 1)."""
    return torch.randn(FINE, batch, 1, generator=torch.Generator().manual_seed(seed), dtype=F64)


def draws(xi, n):
    """The same Brownian path over n steps, in the form that a state (x, dw) draws noise: the second half counts."""
    coarse = xi.reshape(n, FINE // n, *xi.shape[1:]).sum(1) * math.sqrt(n / FINE)
    return GivenNoise(torch.cat([torch.zeros_like(coarse), coarse], 2))


def solve(field, method, xi, n, x, **options):
    plan = method.plan(CLOCK, torch.linspace(0, LENGTH, n + 1, dtype=F64))
    f = DriftDiffusion(field)
    return f.state(sample(Denoiser(f, CLOCK, FLOW), plan, f.start(x), noise=draws(xi, n), **options))


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_geometric_brownian_motion(method):
    """dx = a x dt + b x dw: x_0 exp((a - b^2/2) T + b w) in Ito's sense, without b^2/2 in Stratonovich's, and the
    gradients T x and (w - b T) x or w x of the sum; mean errors along given paths fall at the strong order.
    """
    xi, ito = path(), isinstance(method, ItoEuler)
    w, x = xi.sum(0) * math.sqrt(LENGTH / FINE), torch.ones(400, 1, dtype=F64)
    exact = torch.exp((0.4 - ito * 0.18) * LENGTH + 0.6 * w)
    wanted = (exact * LENGTH).mean(), (exact * (w - ito * 0.6 * LENGTH)).mean()
    errors = []
    for n in (32, 128):
        ab = torch.tensor([0.4, 0.6], dtype=F64, requires_grad=True)
        out = solve(lambda x, t, ab: (ab[0] * x, ab[1] * x), method, xi, n, x, cond=ab, gradient=Checkpoint())
        (grads,) = torch.autograd.grad(out.sum() / 400, ab)
        errors.append(
            [float((out - exact).abs().mean().detach()), *(grads - torch.stack(wanted)).abs().tolist()]
        )
    slopes = [math.log(low / high, 4) for low, high in zip(*errors, strict=True)]
    assert slopes[0] == pytest.approx(0.5 if ito else 1.0, abs=0.12)
    assert errors[1][0] < (0.03 if ito else 2e-3) and max(errors[1][1:]) < 8e-3
    assert ito or slopes[1:] == pytest.approx([1.0, 1.0], abs=0.12)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_ornstein_uhlenbeck(method):
    """dx = theta (m - x) dt + s dw: mean and variance pushed through the plan; weak order 1 (Euler) or 2."""
    theta, m, s = 1.3, 0.5, 0.7
    mean = m + (2.0 - m) * math.exp(-theta)
    variance = s**2 * (1 - math.exp(-2 * theta)) / (2 * theta)
    f, errors = DriftDiffusion(lambda x, t: (theta * (m - x), torch.full_like(x, s))), []
    for n in (20, 40):
        plan = method.plan(CLOCK, Rising(UniformT(n)))
        # sample 0 without noise, sample k + 1 with a unit draw in slot k alone: the rest is linear
        noise = torch.zeros(n, n + 1, 2, dtype=F64)
        noise[range(n), range(1, n + 1), 1] = 1.0
        out = f.state(
            run(Denoiser(f, CLOCK, FLOW), plan, f.start(torch.full((n + 1, 1), 2.0, dtype=F64)), noise=noise)
        )
        spread = (out[1:] - out[0]).square().sum()
        errors.append((abs(float(out[0]) - mean), abs(float(spread) - variance)))
    for low, high in zip(*errors, strict=True):
        assert math.log2(low / high) == pytest.approx(1 if isinstance(method, ItoEuler) else 2, abs=0.15)


def swaying(x, t):
    """A drift of t alone, which broadcasts, and a diffusion of both."""
    return (3 * t[0]).sin(), 0.3 * torch.cos(2 * t)[:, None] + 0.2 * x


def written_out(method, x, times, dw):
    """Each method's docstring in a loop: K_n(y, t) = f(y, t) h_n + g(y, t) dw_n."""

    def k(y, t, n):
        f, g = swaying(y, t.expand(len(y)))
        return f * (times[n + 1] - times[n]) + g * dw[n]

    y = x
    for n in range(len(times) - 1):
        t, after = times[n], times[n + 1]
        first = k(x, t, n)
        if isinstance(method, ItoEuler):
            x = x + first
        elif isinstance(method, StratonovichHeun):
            x = x + (first + k(x + first, after, n)) / 2
        elif isinstance(method, StratonovichMidpoint):
            x = x + k(x + first / 2, (t + after) / 2, n)
        else:
            first = k(y, t, n)
            y = 2 * x - y + first
            x = x + (first + k(y, after, n)) / 2
    return x


@pytest.mark.parametrize("times", [[0.0, 0.1, 0.45, 0.6, 1.0], [1.0, 0.7, 0.65, 0.2], [0.3, 0.9]], ids=str)
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_the_updates_written_out_where_time_and_steps_vary(method, times):
    times, f = torch.tensor(times, dtype=F64), DriftDiffusion(swaying)
    plan, x = method.plan(CLOCK, times), torch.randn(3, 2, dtype=F64)
    xi = torch.randn(len(times) - 1, 3, 4, dtype=F64)
    got = f.state(run(Denoiser(f, CLOCK, FLOW), plan, f.start(x), noise=xi))
    wanted = written_out(method, x, times, times.diff().abs().sqrt()[:, None, None] * xi[..., 2:])
    assert plan.slots == len(times) - 1 and torch.allclose(got, wanted, rtol=1e-13, atol=1e-13)
    assert torch.equal(CLOCK.time(CLOCK.lam(times)), times)


class Net(torch.nn.Module):
    """Drift and diffusion of one trunk, with conditioning."""

    def __init__(self):
        super().__init__()
        self.trunk, self.heads = torch.nn.Linear(3, 6).double(), torch.nn.Linear(6, 4).double()

    def forward(self, x, t, cond):
        f, g = self.heads(torch.tanh(self.trunk(torch.cat([x, t[:, None]], 1)))).chunk(2, 1)
        return f + cond, g.sigmoid()


def test_reversible_heun_is_torchsdes():
    """Bit for bit the same steps along one path, and the same gradients."""
    torch.manual_seed(0)
    net, n, noise = Net(), 8, Addressed(5)
    x = torch.randn(3, 2, dtype=F64).requires_grad_()
    cond = torch.zeros(2, dtype=F64)

    class Theirs(torch.nn.Module):
        noise_type, sde_type = "diagonal", "stratonovich"

        def f(self, t, y):
            return net(y, t.expand(len(y)), cond)[0]

        def g(self, t, y):
            return net(y, t.expand(len(y)), cond)[1]

    f, h = DriftDiffusion(net), LENGTH / n
    plan = StratonovichReversibleHeun().plan(CLOCK, Rising(UniformT(n)))
    given = torch.stack([noise(k, f.start(x.detach())) for k in range(n)])
    cells: Any = Cells([h * k for k in range(n + 1)], 0, n, GivenNoise(given[..., 2:]), x)
    theirs = torchsde.sdeint(
        Theirs(), x, torch.tensor([0.0, LENGTH], dtype=F64), bm=cells, dt=h, method="reversible_heun"
    )[-1]
    inputs = [x, *net.parameters()]
    wanted = torch.autograd.grad(theirs.square().sum(), inputs)
    for strategy in (Direct(), Checkpoint(), Checkpoint(mechanism=Mechanism.REGION), Reversible()):
        out = f.state(
            sample(Denoiser(f, CLOCK, FLOW), plan, f.start(x), cond=cond, noise=noise, gradient=strategy)
        )
        assert torch.allclose(out, theirs, rtol=1e-13, atol=1e-14)
        got = torch.autograd.grad(out.square().sum(), inputs)
        assert all(torch.allclose(a, b, rtol=1e-11, atol=1e-12) for a, b in zip(got, wanted, strict=True)), (
            strategy
        )


def test_it_is_undone_along_the_same_path():
    """decode undoes encode with the same addressed noise: nothing of the path was kept."""
    torch.manual_seed(0)
    f, cond = DriftDiffusion(Net()), torch.zeros(2, dtype=F64)
    plan = StratonovichReversibleHeun().plan(CLOCK, Rising(UniformT(40)))
    z, model = f.start(torch.randn(3, 2, dtype=F64)), Denoiser(f, CLOCK, FLOW)
    there = encode(model, plan, z, cond=cond, noise=Addressed(1))
    assert torch.allclose(
        decode(model, plan, there, cond=cond, noise=Addressed(1), dtype=F64), z, rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_exact_strategies_and_noise_that_wants_a_gradient(method):
    torch.manual_seed(0)
    net, plan = Net(), method.plan(CLOCK, Rising(UniformT(4)))
    f = DriftDiffusion(net)
    x, noise, cond = (torch.randn(*s, dtype=F64).requires_grad_() for s in ((3, 2), (plan.slots, 3, 4), (2,)))
    inputs, found = [x, cond, noise, *net.parameters()], []
    for strategy in (Direct(), Checkpoint(), Checkpoint(mechanism=Mechanism.REGION)):
        z = sample(Denoiser(f, CLOCK, FLOW), plan, f.start(x), cond=cond, noise=noise, gradient=strategy)
        assert not z[:, 2:].any()
        found.append([z.detach(), *torch.autograd.grad(f.state(z).square().sum(), inputs)])
    for other in found[1:]:
        assert all(torch.allclose(a, b, rtol=1e-12, atol=1e-13) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_times_fall_stack_and_plans_pickle(method):
    f = DriftDiffusion(lambda x, t: (-x, 0.3 * x.cos()))
    grids = torch.stack([torch.linspace(0.0, e, 4, dtype=F64) for e in (1.0, 0.6)], 1)
    plan, z = method.plan(CLOCK, grids), f.start(torch.randn(2, 1, dtype=F64))
    assert pickle.loads(pickle.dumps(plan)) == plan
    model = Denoiser(f, CLOCK, FLOW)
    alone = run(model, method.plan(CLOCK, grids[:, 1]), z, noise=Addressed(2))
    assert torch.allclose(run(model, plan, z, noise=Addressed(2))[1], alone[1])
    back = run(model, method.plan(CLOCK, UniformT(1)), z, noise=Addressed(2))
    assert back.isfinite().all() and method.plan(CLOCK, UniformT(1)).times == (1.0, 0.0)


# controlled equations: dz = F(z) dX along a path X, which is conditioning


def test_a_neural_cde_in_closed_form():
    """dz = A z dX for a piecewise linear X: exp(A (X_T - X_0)) z_0, whatever lies between; its gradient in the path."""
    A = torch.tensor([[0.1, 0.8], [-0.5, 0.2]], dtype=F64)
    X = torch.tensor([0.0, 0.4, 0.1, 0.9], dtype=F64).requires_grad_()  # at times 0, 1/3, 2/3, 1
    z = torch.randn(3, 2, dtype=F64)

    def field(z, t, X):
        cell = (3 * t + 1e-9).clamp(max=2.999).long()
        return 3 * (X[cell + 1] - X[cell])[:, None] * (z @ A.T)

    errors = []
    for n in (24, 48):
        # every step lies in one piece: a stage at a knot asks for the piece on its right
        plan = FlowMidpoint().plan(CLOCK, Rising(UniformT(n)))
        out = sample(Denoiser(field, CLOCK, FLOW), plan, z, cond=X, gradient=Checkpoint())
        (got,) = torch.autograd.grad(out.sum(), X)
        wholes = X.detach().clone().requires_grad_()
        exact = z @ torch.linalg.matrix_exp(A * (wholes[-1] - wholes[0])).T
        (wanted,) = torch.autograd.grad(exact.sum(), wholes)
        errors.append((float((out - exact).detach().norm()), float((got - wanted).norm())))
    for low, high in zip(*errors, strict=True):
        assert math.log2(low / high) == pytest.approx(2, abs=0.2)


def test_a_log_ode_sees_the_area():
    """dz = A z dX1 + B z dX2 along (cos, sin): over a window the log-ODE is one constant field, of the increments
    and the area times the commutator, which are conditioning of its steps.
    """
    A, B = (torch.tensor(m, dtype=F64) for m in ([[0.0, 0.6], [0.2, 0.0]], [[0.3, 0.0], [0.5, -0.4]]))
    z = torch.eye(2, dtype=F64)
    turn = 2 * math.pi

    def field(z, t, log):
        a, b, area = log
        return z @ (a * A + b * B + area * (B @ A - A @ B)).T

    def end(windows, steps, depth):
        """Of the log-ODE with `steps` steps of Heun in each window, its own time running from 0 to `windows`."""
        s = torch.linspace(0, turn, windows + 1, dtype=F64)
        a, b = s.cos().diff(), s.sin().diff()
        width = turn / windows
        area = torch.full((windows,), (width - math.sin(width)) / 2, dtype=F64) * (depth == 2)
        log = torch.stack([a, b, area], 1).repeat_interleave(steps, 0)
        clock = Clock(0.0, float(windows))
        plan = FlowHeun().plan(clock, Rising(UniformT(windows * steps)))
        return run(Denoiser(field, clock, FLOW), plan, z, cond=PerStep(log))

    truth, h = torch.eye(2, dtype=F64), turn / 400
    rate = [math.cos(k * h / 2) * B - math.sin(k * h / 2) * A for k in range(801)]
    for early, middle, late in zip(rate[::2], rate[1::2], rate[2::2], strict=False):
        k1 = early @ truth
        k2 = middle @ (truth + h / 2 * k1)
        k3 = middle @ (truth + h / 2 * k2)
        truth = truth + h / 6 * (k1 + 2 * k2 + 2 * k3 + late @ (truth + h * k3))
    for depth, order in ((1, 2), (2, 4)):
        low, high = (float((end(windows, 32, depth) - truth.T).norm()) for windows in (8, 16))
        assert math.log2(low / high) == pytest.approx(order, abs=0.5), (depth, low, high)


def test_what_does_not_fit_is_named():
    assert issubclass(ItoEuler, DriftMethod)
    with pytest.raises(TypeError, match="expected a Clock"):
        ItoEuler().plan(VP(), UniformT(3))
    x, lone = torch.ones(2, 4), DriftDiffusion(lambda x, t: x)  # a batch of two is no pair  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"got a tensor \(2, 2\).* of the field, expected a pair \(f, g\)"):
        run(Denoiser(lone, CLOCK, FLOW), ItoEuler().plan(CLOCK, Rising(UniformT(2))), x, noise=Addressed(0))
    with pytest.raises(ValueError, match="t_min < t_max"):
        Clock(1.0, 0.0)
    with pytest.raises(ValueError, match="got a FLOW network and a plan that asks for DATA"):
        run(Denoiser(lambda x, t: x, CLOCK, FLOW), DDIM().plan(CLOCK, UniformT(2)), torch.randn(1, 2))
