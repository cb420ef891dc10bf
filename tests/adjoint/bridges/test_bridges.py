"""Bridges to torchdiffeq and torchsde: their values against closed forms, our gradients behind them, the ends
of a process.
"""

import functools
import importlib
import math
from typing import Any

import pytest
import torch
import torchdiffeq
import torchsde
from problems import MIXTURE, PROCESS
from torch import nn

from pullback.adjoint import (
    AdjointDEIS,
    Backsolve,
    Checkpoint,
    Continuous,
    Direct,
    PerStep,
    States,
    TorchDiffEq,
    TorchSDE,
    Truncated,
    as_ode,
    as_sde,
    sample,
)
from pullback.solvers import (
    DATA,
    DDIM,
    DDPM,
    EDM,
    FLOW,
    NOISE,
    VP,
    Addressed,
    ClassifierFree,
    Denoiser,
    DPMSolverPP,
    Gaussian,
    GivenNoise,
    RectifiedFlow,
    UniformLambda,
    UniformT,
    convert,
)

MEAN, VARIANCE = torch.tensor([0.7, -0.4], dtype=torch.float64), 0.25
TIGHT = functools.partial(TorchDiffEq, rtol=1e-9, atol=1e-9)
FIRST = {
    "first_step": 1e-3
}  # their choice of a first step would be differentiated, without the field's slope in time


def gaussian(process=PROCESS, prediction=NOISE):
    """A network for N(MEAN, VARIANCE) that predicts `prediction`."""
    exact = Gaussian(MEAN, VARIANCE).denoiser(process)

    def network(x, t):
        t = t.clamp(min=1e-9)  # RectifiedFlow's velocity is finite at t = 0, the way to it from x_0 is not
        return convert(exact(x, t), x, exact.prediction, prediction, process, t)

    return Denoiser(network, process, prediction)


def closed_form(process, x, start, end):
    """T1: x_0 = alpha_0 m + sqrt(v_0 / v_T) (x_T - alpha_T m)."""
    (a_1, v_1), (a_0, v_0) = (
        (float(process.alpha(t)), float(process.alpha(t) ** 2 * VARIANCE + process.sigma(t) ** 2))
        for t in (start, end)
    )
    return a_0 * MEAN + math.sqrt(v_0 / v_1) * (x - a_1 * MEAN), math.sqrt(v_0 / v_1)


@pytest.mark.parametrize(
    "process, start, end", [(PROCESS, 1.0, 1e-3), (PROCESS, 1.0, 0.0), (RectifiedFlow(), 0.99, 0.01)], ids=str
)
@pytest.mark.parametrize("prediction", [NOISE, FLOW])
def test_dopri5_is_the_closed_form(process, start, end, prediction):
    """Also to t = 0, where the velocity is infinite: the clamp moves it by less than the tolerance."""
    plan = DDIM().plan(process, UniformT(6, start=start, end=end))
    x = torch.randn(5, 2, requires_grad=True)
    want, factor = closed_form(process, x.detach(), start, end)
    out = sample(gaussian(process, prediction), plan, x, gradient=TIGHT(gradient=Direct()))
    assert float((out - want).detach().abs().max()) < 1e-5
    (grad,) = torch.autograd.grad(out.sum(), x)
    assert torch.allclose(grad, torch.full_like(grad, factor), rtol=1e-5)


@pytest.mark.parametrize(
    "inner, tolerance",
    [
        (Continuous(states=States.RECORDED), 2e-3),
        (AdjointDEIS(2), 0.1),
        (Continuous(states=States.RESOLVED), 2e-3),
        (Backsolve(), 1e-4),
        (Continuous(60, states=States.RECORDED), 1e-2),
        (Direct(), 1e-5),
    ],
    ids=str,
)
def test_gradient_against_the_closed_form(inner, tolerance):
    plan = DDIM().plan(PROCESS, UniformLambda(120, start=1.0, end=1e-3))
    x = torch.randn(5, 2, requires_grad=True)
    _, factor = closed_form(PROCESS, x.detach(), 1.0, 1e-3)
    out = sample(gaussian(), plan, x, gradient=TorchDiffEq(rtol=1e-7, atol=1e-7, gradient=inner))
    (grad,) = torch.autograd.grad(out.sum(), x)
    assert float((grad / factor - 1).abs().max()) < tolerance


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 2))

    def forward(self, x, t, cond=None):
        shift = 0 if cond is None else cond
        return 0.3 * torch.tanh(self.body(torch.cat([x, t[:, None]], 1)) + shift)


def gradients(strategy, plan, cond_of=lambda c: c, **kwargs):
    torch.manual_seed(3)
    net, x, cond = Net(), torch.randn(4, 2, requires_grad=True), torch.randn(2, requires_grad=True)
    scale = torch.tensor(1.5, requires_grad=True)
    model = ClassifierFree(Denoiser(net, PROCESS, NOISE), scale, null=torch.zeros(2))
    out = sample(model, plan, x, cond=cond_of(cond), gradient=strategy, **kwargs)
    return out.detach(), torch.autograd.grad(out.square().sum(), [x, cond, scale, *net.parameters()])


@pytest.mark.slow
@pytest.mark.parametrize("inner", [Continuous(states=States.RECORDED), AdjointDEIS(2), Backsolve()], ids=str)
def test_everything_that_enters_gets_its_gradient(inner):
    """Starting noise, conditioning (not a leaf), guidance scale and parameters, against autograd through
    their solver.
    """
    plan = DDIM().plan(PROCESS, UniformLambda(80, start=0.9, end=0.01))
    _, want = gradients(TorchDiffEq(rtol=1e-7, atol=1e-7, gradient=Direct()), plan, lambda c: 2 * c)
    _, got = gradients(TorchDiffEq(rtol=1e-7, atol=1e-7, gradient=inner), plan, lambda c: 2 * c)
    for a, b in zip(got, want, strict=True):
        assert float((a - b).norm()) < 0.02 * float(b.norm())


@pytest.mark.parametrize("inner", [Continuous(states=States.RECORDED), Backsolve(), Direct()], ids=str)
@pytest.mark.slow
def test_scheduled_conditioning_and_controls_split_the_solve(inner):
    """Equal rows are a constant; controls enter where a plan's would."""
    plan = DDIM().plan(PROCESS, UniformLambda(20, start=0.9, end=0.05))
    solver = TorchDiffEq(rtol=1e-7, atol=1e-7, gradient=inner)
    value, constant = gradients(solver, plan)
    again, rows = gradients(solver, plan, lambda c: PerStep(c.expand(20, 2)))
    assert torch.allclose(value, again, atol=1e-5)
    for a, b in zip(constant, rows, strict=True):
        assert float((a - b).norm()) < 0.02 * float(b.norm())
    controls = torch.zeros(20, 4, 2, requires_grad=True)
    x = torch.randn(4, 2, requires_grad=True)
    out = sample(gaussian(), plan, x, controls=controls, gradient=solver)
    g_x, g_u = torch.autograd.grad(out.sum(), [x, controls])
    assert torch.allclose(g_u[0], g_x) and bool((g_u.flatten(1).norm(dim=1) > 0).all())


def test_other_methods_and_options_reach_their_solver():
    plan = DDIM().plan(PROCESS, UniformT(50, start=0.9, end=0.1))
    x = torch.randn(3, 2)
    want, _ = closed_form(PROCESS, x, 0.9, 0.1)
    coarse = sample(gaussian(), plan, x, gradient=TorchDiffEq("euler", gradient=None))
    fine = sample(
        gaussian(), plan, x, gradient=TorchDiffEq("euler", options={"step_size": 1e-3}, gradient=None)
    )
    assert float((fine - want).norm()) < 0.2 * float((coarse - want).norm())
    assert not coarse.requires_grad


def test_the_fields_are_clamped_to_the_process():
    """Past either end, and at an end where the velocity is infinite, the network is asked inside."""
    seen: list[float] = []

    def network(x, t):
        seen.append(float(t[0]))
        return x

    ode = as_ode(Denoiser(network, PROCESS, NOISE))
    x = torch.randn(2, 2)
    for t in (-0.3, 0.0, 0.5, 1.0, 1.7):
        assert bool(ode(torch.tensor(t), x).isfinite().all())
    assert seen == pytest.approx([1e-5, 1e-5, 0.5, 1.0, 1.0])
    seen.clear()
    wide = as_ode(Denoiser(network, EDM(), DATA))  # from 0 to 80, dx/dt = (x - D)/t
    for t in (-0.3, 0.0, 40.0, 80.0, 90.0):
        assert bool(wide(torch.tensor(t), x).isfinite().all())
    assert seen == pytest.approx([8e-4, 8e-4, 40.0, 80.0, 80.0])
    seen.clear()
    flow = as_ode(Denoiser(network, RectifiedFlow(), FLOW))
    for t in (-0.3, 0.0, 1.0, 1.7):
        assert torch.equal(flow(torch.tensor(t), x), x)
    assert seen == [0.0, 0.0, 1.0, 1.0]
    seen.clear()
    sde = as_sde(Denoiser(network, RectifiedFlow(), FLOW))
    for s in (-1.0, 0.0, 1.0, 2.0):
        assert bool((sde.f(torch.tensor(s), x).isfinite() & sde.g(torch.tensor(s), x).isfinite()).all())
    assert seen == pytest.approx([1 - 1e-5, 1 - 1e-5, 0.0, 0.0], abs=2e-5)


def test_as_ode_is_the_velocity_and_serves_odeint_adjoint_itself():
    """The conditioning is among its parameters: captured in a closure, theirs would leave it None without a word."""
    net, cond = Net(), torch.randn(2, requires_grad=True)
    model = Denoiser(net, PROCESS, DATA)
    ode, x, t = as_ode(model, cond), torch.randn(4, 2), torch.tensor(0.4)
    want = convert(model(x, t.expand(4), cond), x, DATA, FLOW, PROCESS, 0.4)
    assert torch.allclose(ode(t, x), want)
    assert {id(p) for p in ode.parameters()} == {id(p) for p in (*net.parameters(), cond)}
    times = torch.tensor([0.9, 0.1])
    theirs: tuple[Any, Any] = torchdiffeq.odeint_adjoint, functools.partial(torchdiffeq.odeint, options=FIRST)
    out = theirs[0](ode, x, times, rtol=1e-7, atol=1e-7)[-1]
    got = torch.autograd.grad(out.square().sum(), list(ode.parameters()))
    out = theirs[1](as_ode(model, cond), x, times, rtol=1e-7, atol=1e-7)[-1]
    for a, b in zip(got, torch.autograd.grad(out.square().sum(), list(ode.parameters())), strict=True):
        assert float((a - b).norm()) < 1e-4 * float(b.norm())


@pytest.mark.parametrize("kind", ["ito", "stratonovich"])
def test_as_sde_has_the_marginals_of_the_process(kind):
    """N(MEAN, VARIANCE) by 300 steps from pure noise: 4 standard errors of 5000 samples, and the drift's bias."""
    process = VP()
    sde = as_sde(gaussian(process), start=1.0, sde_type=kind)
    torch.manual_seed(5)
    x, s = torch.randn(5000, 2), torch.tensor([0.0, 0.999])
    path = torchsde.BrownianInterval(0.0, 1.0, size=(5000, 2), entropy=7, dtype=torch.float64)
    end = torchsde.sdeint(sde, x, s, bm=path, dt=1 / 300, method="euler" if kind == "ito" else "midpoint")[-1]
    variance = float(process.alpha(1e-3) ** 2 * VARIANCE + process.sigma(1e-3) ** 2)
    assert (
        float((end.mean(0) - float(process.alpha(1e-3)) * MEAN).abs().max())
        < 4 * math.sqrt(variance / 5000) + 0.005
    )
    assert float((end.var(0) / variance - 1).abs().max()) < 4 * math.sqrt(2 / 5000) + 0.03
    assert sde.noise_type == "diagonal" and sde.sde_type == kind


@pytest.mark.parametrize("method", ["euler", "srk"])
@pytest.mark.slow
def test_torchsde_behind_sample(method):
    """Marginals, replay, batch splits; images are flattened for them and come back."""
    plan = DDPM().plan(PROCESS, UniformLambda(20, start=1.0, end=1e-2))
    strategy = TorchSDE(method, dt=0.02, gradient=None)
    torch.manual_seed(6)
    x, noise = torch.randn(4000, 2), Addressed(11)
    out = sample(gaussian(), plan, x, noise=GivenNoise(torch.randn(400, 4000, 2)), gradient=strategy)
    variance = float(PROCESS.alpha(1e-2) ** 2 * VARIANCE + PROCESS.sigma(1e-2) ** 2)
    assert (
        float((out.mean(0) - float(PROCESS.alpha(1e-2)) * MEAN).abs().max())
        < 4 * math.sqrt(variance / 4000) + 0.01
    )
    assert float((out.var(0) / variance - 1).abs().max()) < 4 * math.sqrt(2 / 4000) + 0.03
    out = sample(gaussian(), plan, x[:6], noise=noise, gradient=strategy)
    assert torch.equal(out[:3], sample(gaussian(), plan, x[:3], noise=noise, gradient=strategy))
    image = Denoiser(lambda x, t: x, PROCESS, DATA)
    assert sample(image, plan, torch.randn(2, 1, 3, 3), noise=noise, gradient=strategy).shape == (2, 1, 3, 3)


@pytest.mark.slow
def test_srk_converges_faster_along_one_path():
    """Order 1.5 needs the space-time Levy area of the same path: against 32 times finer steps of Euler on the
    same noise.
    """
    process, n, fine = VP(), 20, 32
    times = torch.linspace(0.9, 0.3, n + 1)
    draws = torch.randn(n * fine, 4, 2)
    width = 0.6 / n
    w = draws.reshape(n, fine, 4, 2) * math.sqrt(width / fine)
    path = w.cumsum(1) - w / 2  # trapezium at the middle of each fine cell
    whole = w.sum(1)
    area = path.mean(1) - whole / 2  # H of the coarse cell
    noise = torch.cat([whole / math.sqrt(width), area / math.sqrt(width / 12)])
    x, model = torch.randn(4, 2), MIXTURE.denoiser(process)

    def run(method, grid, source):
        plan = DDPM().plan(process, grid)
        return sample(model, plan, x, noise=GivenNoise(source), gradient=TorchSDE(method, gradient=None))

    truth = run("euler", torch.linspace(0.9, 0.3, n * fine + 1), draws)
    srk, euler = (float((run(m, times, noise) - truth).norm()) for m in ("srk", "euler"))
    assert srk < 0.2 * euler


@pytest.mark.slow
@pytest.mark.parametrize(
    "inner, tolerance",
    [(Continuous(method=DDIM(1.0), states=States.RECORDED), 0.05), (AdjointDEIS(1), 0.1), (Backsolve(), 0.1)],
    ids=str,
)
def test_gradients_behind_torchsde(inner, tolerance):
    """Against autograd through their solver on the same path."""
    plan = DDPM().plan(PROCESS, UniformLambda(150, start=0.9, end=0.05))
    _, want = gradients(TorchSDE("euler", gradient=Direct()), plan, noise=Addressed(3))
    _, got = gradients(TorchSDE("euler", gradient=inner), plan, noise=Addressed(3))
    for a, b in zip(got, want, strict=True):
        assert float((a - b).norm()) < tolerance * float(b.norm())


def test_callbacks_see_the_nodes():
    plan, seen = DDIM().plan(PROCESS, UniformT(4, start=0.9, end=0.1)), []
    x = torch.randn(2, 2)
    sample(
        gaussian(), plan, x, gradient=TIGHT(gradient=None), callback=lambda k, t, v: seen.append((k, t, v))
    )
    assert [k for k, _, _ in seen] == [0, 1, 2, 3, 4]
    for _, t, value in seen:
        assert float((value - closed_form(PROCESS, x, 0.9, t)[0]).abs().max()) < 1e-6


def test_refusals(monkeypatch):
    x, model = torch.randn(2, 2, requires_grad=True), MIXTURE.denoiser(PROCESS)
    ode, sde = (m.plan(PROCESS, UniformT(4, start=0.9, end=0.05)) for m in (DPMSolverPP(2), DDPM()))

    def call(plan, strategy, match, error: type[Exception] = ValueError, **kwargs):
        with pytest.raises(error, match=match):
            sample(kwargs.pop("model", model), plan, kwargs.pop("x", x), gradient=strategy, **kwargs)

    call(sde, TorchDiffEq(), "expected a deterministic", noise=Addressed(0))
    call(ode, TorchSDE(), "expected a stochastic")
    call(DDIM().plan(PROCESS, torch.tensor([[0.9, 0.8], [0.1, 0.2]])), TorchDiffEq(), "one grid for all")
    call(ode, Truncated(2, TorchDiffEq()), "Truncated")
    call(
        ode,
        TorchDiffEq(),
        "nothing|none of which requires grad",
        x=x.detach(),
        model=Denoiser(nn.Identity(), PROCESS, DATA),
    )
    call(sde, TorchSDE(), "noise that requires grad", noise=torch.randn(8, 2, 2, requires_grad=True))
    call(sde, TorchSDE("srk"), "expected \\(8, 2, 2\\)", noise=torch.randn(4, 2, 2))
    captured = torch.randn(2, requires_grad=True)
    call(
        ode,
        TorchDiffEq(gradient=Backsolve()),
        "captures",
        model=Denoiser(lambda x, t: x + captured, PROCESS, DATA),
    )
    wild = Denoiser(lambda x, t: x * math.nan, PROCESS, DATA)
    call(ode, TorchDiffEq("euler", gradient=None), "not finite", FloatingPointError, model=wild)
    call(ode, TorchDiffEq(gradient=None), "not finite", FloatingPointError, model=wild)
    for bad, match in ((Checkpoint(), "expected Continuous"), (Continuous(), "RECORDED")):
        for bridge in (TorchDiffEq, TorchSDE):
            with pytest.raises(ValueError, match=match):
                bridge(gradient=bad)
    call(ode, TorchDiffEq("dopri55"), "Invalid method")
    call(sde, TorchSDE("leapfrog"), "Expected method", noise=Addressed(0))
    with pytest.raises(ValueError, match="expected positive tolerances"):
        TorchDiffEq(rtol=0.0)
    with pytest.raises(ValueError, match="expected a positive step"):
        TorchSDE(dt=0.0)
    with pytest.raises(ValueError, match="RECORDED"):
        TorchSDE(gradient=AdjointDEIS(1, None, States.RESOLVED))
    with pytest.raises(ValueError, match="got PerStep"):
        as_ode(model, PerStep(torch.zeros(4, 2)))
    with pytest.raises(ValueError, match="sde_type"):
        as_sde(model, sde_type="backwards")

    def missing(name):
        raise ModuleNotFoundError(name, name=name)

    monkeypatch.setattr(importlib, "import_module", missing)
    call(ode, TorchDiffEq(), r"pullback\[ode\]", ImportError)
    call(sde, TorchSDE(), r"pullback\[ode\]", ImportError, noise=Addressed(0))
