"""A model of one process on another: equal lambda, rescaled x, the same denoiser, sample and gradient."""

import math

import pytest
import torch
from problems import MIXTURE, warped
from torch import nn

from pullback.adjoint import Checkpoint, Direct, sample
from pullback.solvers import (
    DATA,
    DDIM,
    EDM,
    FLOW,
    NOISE,
    OBELM,
    SCORE,
    VE,
    VP,
    Addressed,
    ClassifierFree,
    CosineVP,
    Denoiser,
    DiscreteVP,
    DPMSolverPP,
    EDMHeun,
    FlowEuler,
    OnProcess,
    RectifiedFlow,
    SASolver,
    SubVP,
    UniformT,
    UserPair,
    V,
    WholeLabels,
    convert,
    run,
)

TABLE = DiscreteVP(torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0))
TRIG = UserPair(lambda t: torch.cos(t), lambda t: torch.sin(t), 0.0, math.pi / 2)
PROCESSES = [VP(), CosineVP(), SubVP(), EDM(), RectifiedFlow(), TABLE, TRIG]
LAMBDAS = torch.tensor([-3.0, -0.5, 0.0, 1.7, 3.0])


def told(process, kind):
    """The mixture's exact network of any prediction."""
    exact = MIXTURE.denoiser(process)
    return Denoiser(lambda x, t: convert(exact(x, t), x, DATA, kind, process, t), process, kind)


def data(model, x, t):
    out = model(x, t)
    return out if model.prediction == DATA else convert(out, x, model.prediction, DATA, model.process, t)


@pytest.mark.parametrize("kind", [DATA, NOISE, V, FLOW, SCORE], ids=lambda p: p.name)
@pytest.mark.parametrize("theirs", PROCESSES, ids=lambda p: type(p).__name__)
def test_the_denoiser_is_the_exact_one_on_every_process(theirs, kind):
    x = torch.randn(5, 2)
    for process in PROCESSES:
        model, t = OnProcess(told(theirs, kind), process), process.time(LAMBDAS)
        wanted = MIXTURE.denoise(x, process.alpha(t), process.sigma(t))
        assert torch.allclose(data(model, x, t), wanted, rtol=1e-9, atol=1e-9), process
        assert model.prediction == (kind if kind in (DATA, NOISE) else V) and model.process == process


@pytest.mark.parametrize("kind", [DATA, NOISE, V, FLOW], ids=lambda p: p.name)
def test_there_and_back_is_the_same_model(kind):
    """VP to the rectified flow to EDM to VP: to round-off, through three rescalings."""
    x, t = torch.randn(5, 2), VP().time(LAMBDAS)
    model = told(VP(), kind)
    there = OnProcess(OnProcess(OnProcess(model, RectifiedFlow()), EDM()), VP())
    assert torch.allclose(data(there, x, t), data(model, x, t), rtol=1e-12, atol=1e-12)


class Network(nn.Module):
    """Any function of (x, t): invariance needs no denoiser."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 16), nn.SiLU(), nn.Linear(16, 2))

    def forward(self, x, t, cond=None):
        out = self.body(torch.cat([x, t[:, None]], 1))
        return out if cond is None else out + cond


@pytest.mark.parametrize(
    "method", [DDIM(), DPMSolverPP(3), EDMHeun(), SASolver(2, 3), OBELM()], ids=lambda m: type(m).__name__
)
@pytest.mark.parametrize("kind", [NOISE, FLOW], ids=lambda p: p.name)
def test_equal_lambdas_give_the_same_sample_up_to_scale(method, kind):
    """The plan on the other path, of the same network, ends at the same x/alpha; and so do its gradients."""
    network, lam = Network(), warped(9)
    x, ends = torch.randn(4, 2), []
    for process in (VP(), RectifiedFlow(), EDM(), CosineVP()):
        model = OnProcess(Denoiser(network, VP(), kind), process)
        t = process.time(lam)
        y = x.clone().requires_grad_()
        plan = method.plan(process, t)
        out = sample(model, plan, process.alpha(t[0]) * y, noise=Addressed(0)) / process.alpha(t[-1])
        grads = torch.autograd.grad(out.square().sum(), [y, *model.parameters()])
        ends.append([out.detach(), *grads])
    plain = Denoiser(network, VP(), kind)
    t = VP().time(lam)
    out = run(plain, method.plan(VP(), t), VP().alpha(t[0]) * x, noise=Addressed(0)) / VP().alpha(t[-1])
    assert torch.allclose(ends[0][0], out.detach(), rtol=1e-12, atol=1e-12)
    for other in ends[1:]:
        for a, b in zip(other, ends[0], strict=True):
            assert torch.allclose(a, b, rtol=1e-10, atol=1e-12 * float(b.abs().max()))


def test_from_end_to_end():
    """alpha = 0 and sigma = 0 of one process are those of the other: a cosine network along straight lines."""
    cosine = told(CosineVP(), V)
    model = OnProcess(cosine, RectifiedFlow())
    x = torch.randn(6, 2)
    out = run(model, FlowEuler().plan(RectifiedFlow(), UniformT(8)), x)
    lam = RectifiedFlow().lam(torch.linspace(1, 0, 9, dtype=torch.float64))
    straight = run(cosine, DDIM().plan(CosineVP(), CosineVP().time(lam)), x)  # flow Euler is DDIM there
    assert torch.allclose(out, straight, rtol=1e-10, atol=1e-10)
    for process, t in ((TRIG, math.pi / 2), (CosineVP(), 1.0)):
        # v = alpha eps - sigma x_0 is minus the prior mean where there is noise alone
        v = OnProcess(told(RectifiedFlow(), FLOW), process)(x, torch.full((6,), t))
        assert torch.allclose(v, -MIXTURE.mean.expand(6, 2), atol=1e-12)


def test_exact_strategies_guidance_and_other_networks():
    network = Network()
    base = Denoiser(network, VP(), V)
    model = ClassifierFree(OnProcess(base, RectifiedFlow()), 2.0, null=torch.zeros(2))
    other = OnProcess(ClassifierFree(base, 2.0, null=torch.zeros(2)), RectifiedFlow())
    plan = DPMSolverPP(2).plan(RectifiedFlow(), UniformT(6, 0.95, 0.05))
    x, cond = torch.randn(3, 2, requires_grad=True), torch.randn(2, requires_grad=True)
    inputs = [x, cond, *model.parameters()]
    assert list(other.networks()) == list(model.networks()) and network in list(model.networks())
    found = [
        torch.autograd.grad(sample(m, plan, x, cond=cond, gradient=g).square().sum(), inputs)
        for m, g in ((model, Direct()), (model, Checkpoint()), (other, Checkpoint()))
    ]
    for grads in found[1:]:
        assert all(torch.allclose(a, b, rtol=1e-10, atol=1e-12) for a, b in zip(grads, found[0], strict=True))
    again = OnProcess(base, EDM()).around(told(VP(), NOISE))
    assert again.process == EDM() and again.prediction == NOISE


def test_float32_states_keep_float32():
    model = OnProcess(Denoiser(lambda x, t: x * t[:, None], VP(), DATA), EDM())
    x, t = torch.ones(2, 3, dtype=torch.float32), torch.tensor([0.5, 2.0], dtype=torch.float32)
    own = VP().time(EDM().lam(t))
    wanted = x.double() * (VP().alpha(own) * own)[:, None]
    out = model(x, t)
    assert out.dtype == torch.float32 and torch.allclose(out.double(), wanted, rtol=1e-6)


def test_a_level_that_the_model_does_not_reach_is_refused():
    x = torch.randn(2, 2)
    for model, process, grid, words in (
        (told(EDM(), DATA), VP(), [1.0, 0.5, 0.1], "at t=1 of VP.*lambda is -5.02.*expected -4.382 to inf"),
        (told(TABLE, DATA), RectifiedFlow(), UniformT(4), "lambda is -inf"),
        (told(VE(), DATA), EDM(), [10.0, 1.0, 0.001, 0.0], "expected -3.912 to 4.605"),
        (
            told(CosineVP(), NOISE),
            RectifiedFlow(),
            UniformT(4),
            "does not determine|at which NOISE determines NOISE",
        ),
        (told(EDM(), SCORE), RectifiedFlow(), [0.0, 0.5], "at which SCORE determines V"),
    ):
        plan = DPMSolverPP(2).along(process, grid)
        with pytest.raises(ValueError, match=words):
            run(OnProcess(model, process), plan, x)
    looked_up = OnProcess(Denoiser(lambda x, t: x, TABLE, DATA, label=WholeLabels()), RectifiedFlow())
    with pytest.raises(ValueError, match="WholeLabels"):
        run(looked_up, DDIM().plan(RectifiedFlow(), [0.9, 0.5]), x)
    whole = RectifiedFlow().time(TABLE.lam(torch.tensor([900.0, 400.0, 0.0])))
    assert run(looked_up, DDIM().plan(RectifiedFlow(), whole), x).isfinite().all()
