"""The discrete map of a plan: its log-determinant and the density that the sampler itself gives."""

import math

import pytest
import torch
from everything import assert_same
from problems import MIXTURE, warped
from torch import nn

from pullback.adjoint import Checkpoint, Direct, PerStep, log_prob, map_log_det, sample, sampler_log_prob
from pullback.solvers import (
    BDIA,
    DATA,
    DDIM,
    EDICT,
    OBELM,
    VP,
    Coupled,
    Denoiser,
    DPMSolverPP,
    DPMSolverPPSingle,
    EulerMaruyama,
    FlowHeun,
    Gaussian,
    Mixture,
    RectifiedFlow,
    ReversibleHeun,
    Rising,
    UniformT,
    V,
    decode,
    encode,
    response,
    run,
)

PROCESS = VP()


def falling(method, n):
    return method.plan(PROCESS, PROCESS.time(warped(n)))


METHODS = [DDIM(), DPMSolverPP(2), FlowHeun(), ReversibleHeun(), BDIA(), EDICT(), OBELM(), Coupled()]


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_the_determinant_is_that_of_the_jacobian(method):
    """Against finite differences of the bare loop, two states or one."""
    plan, denoiser, x = falling(method, 6), MIXTURE.denoiser(PROCESS), torch.randn(3, 2)
    end, found = map_log_det(denoiser, plan, x)
    h = 1e-3
    columns = []
    for k in range(2):
        step = h * torch.eye(2)[k]
        ends = [run(denoiser, plan, x + j * step) for j in (-2, -1, 1, 2)]
        columns.append((ends[0] - 8 * ends[1] + 8 * ends[2] - ends[3]) / (12 * h))
    exact = torch.linalg.slogdet(torch.stack(columns, 2)).logabsdet
    assert torch.equal(end, sample(denoiser, plan, x)) and float((found - exact).abs().max()) < 1e-8
    rows = torch.stack([torch.func.jacrev(lambda y: run(denoiser, plan, y[None])[0])(row) for row in x])
    assert torch.allclose(found, torch.linalg.slogdet(rows).logabsdet, atol=1e-12)


@pytest.mark.parametrize("method", [DDIM(), DPMSolverPP(2), BDIA(), ReversibleHeun()], ids=str)
def test_on_a_gaussian_it_is_the_response_of_the_plan(method):
    """Each number is scaled by the plan's own coefficient: log det = d log c, and q is N(., c^2 sigma_T^2)."""
    plan, law = falling(method, 7), Gaussian(torch.full((3,), 0.4), 0.3)
    offset, slope = response(plan, 0.4, 0.3).tolist()
    x = torch.randn(4, 3)
    assert torch.allclose(
        map_log_det(law.denoiser(PROCESS), plan, x)[1], torch.tensor(3 * math.log(abs(slope))), atol=1e-10
    )
    std = abs(slope) * float(PROCESS.sigma(plan.times[0]))
    exact = torch.distributions.Normal(offset, std).log_prob(x).sum(1)
    found = sampler_log_prob(law.denoiser(PROCESS), plan, x)
    assert torch.allclose(found.value, exact, rtol=0, atol=1e-10)
    assert float((run(law.denoiser(PROCESS), plan, found.end) - x).abs().max()) < 1e-10


@pytest.mark.parametrize("method, n", [(DDIM(), 5), (DPMSolverPPSingle(2), 4), (EDICT(), 8)], ids=str)
def test_it_integrates_to_one(method, n):
    """The sampler's own density, however few its steps; that of the flow on the same plan is another."""
    law = Mixture.isotropic(
        torch.tensor([0.4, 0.6]), torch.tensor([[-0.7], [0.8]]), torch.tensor([0.35, 0.5])
    )
    plan, grid = falling(method, n), torch.linspace(-6, 6, 401)[:, None]
    q = sampler_log_prob(law.denoiser(PROCESS), plan, grid).value.exp()
    assert abs(float(torch.trapezoid(q, grid[:, 0])) - 1) < 1e-6
    rising = method.plan(PROCESS, Rising(torch.tensor(plan.times)))
    flow = log_prob(law.denoiser(PROCESS), rising, grid).value.exp()
    assert float((q - flow).abs().max()) > 1e-3


def test_there_and_back_the_determinants_cancel():
    """A reversible plan and its inverse: from the registers that `encode` returns `decode` finds x_T."""
    plan, denoiser, x = falling(ReversibleHeun(), 8), MIXTURE.denoiser(PROCESS), torch.randn(3, 2)
    end, log_det = map_log_det(denoiser, plan, x)
    registers = encode(denoiser, plan, x)
    start = decode(denoiser, plan, registers, dtype=torch.float64)
    found = sampler_log_prob(denoiser, plan, registers["x"], start=start)
    sigma = PROCESS.sigma(torch.tensor(plan.times[0]))
    drawn = torch.distributions.Normal(0.0, sigma).log_prob(x).sum(1) - log_det
    assert torch.allclose(found.value, drawn, atol=1e-10) and torch.allclose(found.end, x, atol=1e-10)
    forth = torch.func.jacrev(lambda y: torch.cat([v[0] for v in encode(denoiser, plan, y[None]).values()]))(
        x[0]
    )
    names = list(registers)

    def inverse(z):
        return run(
            denoiser, plan.inverse(), {n: part[None] for n, part in zip(names, z.split(2), strict=True)}
        )[0]

    back = torch.func.jacrev(inverse)(torch.cat([registers[n][0] for n in names]))
    assert torch.allclose(back @ forth, torch.eye(2), atol=1e-10)
    assert abs(float(torch.linalg.slogdet(forth[:2])[1] - log_det[0])) < 1e-10
    assert torch.equal(end, registers["x"])


def test_it_tends_to_the_density_of_the_flow():
    x = MIXTURE.sample(4, torch.Generator().manual_seed(0))
    errors = []
    for n in (12, 24):
        plan = falling(DPMSolverPPSingle(2), n)
        alpha, sigma = (float(f(torch.tensor(plan.times[-1]))) for f in (PROCESS.alpha, PROCESS.sigma))
        found = sampler_log_prob(MIXTURE.denoiser(PROCESS), plan, x, prior=MIXTURE.log_prob).value
        errors.append(float((found - MIXTURE.log_prob(x, alpha, sigma)).norm()))
    assert 1.7 < math.log2(errors[0] / errors[1]) < 2.5


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))

    def forward(self, x, t, cond):
        return 0.3 * self.body(torch.cat([x, t[:, None]], 1)) + cond


def test_gradients():
    """Of the determinant and of the density, strategies against plain autograd, x against finite differences."""
    torch.manual_seed(0)
    net = Net()
    denoiser, plan = Denoiser(net, PROCESS, V), falling(DPMSolverPP(2), 4)
    x, cond = torch.randn(2, 3, requires_grad=True), torch.randn(4, 2, 3, requires_grad=True)

    def grads(function, gradient):
        out = function(denoiser, plan, x, cond=PerStep(cond), gradient=gradient)
        value = out[1] if isinstance(out, tuple) else out.value
        return [value, *torch.autograd.grad(value.sum(), [x, cond, *net.parameters()])]

    for function in (map_log_det, sampler_log_prob):
        assert_same(grads(function, Checkpoint()), grads(function, Direct()), 1e-9)

        def value(x, c, function=function):
            found = function(denoiser, plan, x, cond=PerStep(c), gradient=Direct())
            return found[1] if isinstance(found, tuple) else found.value

        assert torch.autograd.gradcheck(value, (x, cond), atol=1e-6, fast_mode=True)
    for p in net.parameters():
        p.requires_grad_(False)
    assert not map_log_det(denoiser, plan, x.detach(), cond=PerStep(cond.detach()))[1].requires_grad


def test_from_the_data_itself_and_one_step():
    """Where sigma = 0 at the end, and where there is nothing to encode along."""
    law = Gaussian(torch.tensor([0.5, -0.5]), 0.2)
    denoiser = law.denoiser(RectifiedFlow())
    for n in (1, 6):
        plan = DDIM().plan(RectifiedFlow(), UniformT(n, start=0.95))
        x = torch.randn(4, 2)
        found = sampler_log_prob(denoiser, plan, x)
        assert torch.allclose(run(denoiser, plan, found.end), x, atol=1e-10)
        assert bool(found.value.isfinite().all())


def test_cost_is_what_is_called():
    calls = []
    law = Gaussian(torch.zeros(2), 0.3)

    def network(x, t):
        calls.append(len(x))
        return law.denoise(x, PROCESS.alpha(t), PROCESS.sigma(t))

    plan = falling(DDIM(), 5)
    with torch.no_grad():
        found = sampler_log_prob(
            Denoiser(network, PROCESS, DATA), plan, torch.randn(2, 2), start=torch.randn(2, 2)
        )
    assert found.nfe == len(calls), (found.nfe, len(calls))


def test_refusals():
    x, denoiser = torch.randn(2, 2), MIXTURE.denoiser(PROCESS)
    good = falling(DDIM(), 3)
    with pytest.raises(ValueError, match="draws noise"):
        map_log_det(denoiser, falling(EulerMaruyama(), 3), x)
    with pytest.raises(ValueError, match="from x alone to x alone"):
        map_log_det(denoiser, falling(BDIA(), 3).inverse(), x)
    with pytest.raises(ValueError, match="falling"):
        sampler_log_prob(denoiser, DDIM().plan(PROCESS, Rising(torch.tensor(good.times))), x)
    with pytest.raises(ValueError, match="start: got shape"):
        sampler_log_prob(denoiser, good, x, start=x[:1])
    with pytest.raises(RuntimeError, match=r"samples \[0, 1\] after 3 steps"):
        folded = Denoiser(lambda x, t: 3 * (9 * x).sin(), PROCESS, DATA)
        sampler_log_prob(folded, good, 50 + x, start=x, most=3)
    with torch.inference_mode(), pytest.raises(ValueError, match="inference_mode"):
        map_log_det(denoiser, good, x)


def test_second_derivatives_are_refused():
    """x_T is solved for by Newton's steps, the last of which is right to first order."""
    model, plan = MIXTURE.denoiser(VP()), DDIM().plan(VP(), [0.9, 0.5, 0.3])
    x = 0.3 * torch.ones(1, 2, requires_grad=True)
    value = sampler_log_prob(model, plan, x).value.sum()
    torch.autograd.grad(value, x, retain_graph=True)
    with pytest.raises(NotImplementedError, match="expected first derivatives"):
        torch.autograd.grad(value, x, create_graph=True)
