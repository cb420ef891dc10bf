"""AdjointDEIS along noise of every kind, jumps of the state between stretches of the flow among them."""

import math
from typing import Any

import pytest
import torch
from problems import MIXTURE, PROCESS, thinned

from pullback.adjoint import AdjointDEIS, Direct, PerStep, Truncated, sample
from pullback.adjoint.continuous.stretches import stretches
from pullback.solvers import (
    DDIM,
    SEEDS,
    Ancestral,
    Denoiser,
    DPMSolverPPSingle,
    EDMHeun,
    FlowSDE,
    Gaussian,
    Method,
    Mixture,
    RectifiedFlow,
    Restart,
    SASolver,
    SDEDPMSolverPP,
    Tau,
    UniformLambda,
    UniformT,
)

BAND: dict[str, Any] = {"low": 0.2, "high": 0.8}
JUMPS = [
    EDMHeun(4.0), EDMHeun(4.0, s_min=0.2, s_max=3.0), Restart(DDIM(), **BAND), Restart(EDMHeun(), times=2, **BAND),
    Restart(DPMSolverPPSingle(3), **BAND), Ancestral(DDIM(), 0.6), Ancestral(EDMHeun(), 0.6),
]  # fmt: skip
LEVELS = [
    SASolver(2, 3, tau=0.7), SASolver(2, 0, tau=Tau(1.3, 0.05, 1.0)), SDEDPMSolverPP(2, tau=Tau(1.2, 0.2, 1.0)),
    SEEDS(2), FlowSDE(2.0),
]  # fmt: skip


# linear: slopes do not hang on the path
DATA_LAW = Gaussian(torch.tensor([0.5, -0.2], dtype=torch.float64), 0.5 * torch.eye(2, dtype=torch.float64))


def problem(method: Method, n, law: Mixture = DATA_LAW):
    process, grid = (RectifiedFlow(), UniformT) if isinstance(method, FlowSDE) else (PROCESS, UniformLambda)
    plan = method.plan(process, grid(n, start=0.9, end=0.05))
    g = torch.Generator().manual_seed(1)
    exact = law.denoiser(process)
    model = Denoiser(lambda x, t, c: exact(x, t) + c, process, exact.prediction)
    return model, plan, torch.tensor([[1.0, 1.0], [-0.5, 0.3]]), torch.randn(plan.slots, 2, 2, generator=g)


def far(method, n, strategy, law: Mixture = DATA_LAW):
    """From the exact gradient of the run, relative: at the start, at the draws, at a shift of the predictions."""
    model, plan, x, noise = problem(method, n, law)
    inputs = [v.requires_grad_() for v in (x, noise, torch.zeros(2))]
    found = []
    for how in (strategy, Direct()):
        out = sample(model, plan, x, cond=inputs[2], noise=noise, gradient=how)
        found.append(torch.autograd.grad((out * torch.tensor([1.0, -0.6])).sum(), inputs))
    return [float((a - b).norm() / b.norm()) for a, b in zip(*found, strict=True)]


@pytest.mark.parametrize(
    "method", thinned([JUMPS[0], *LEVELS[:2], JUMPS[2], *JUMPS[3:5], JUMPS[5], *LEVELS[2:], JUMPS[1], JUMPS[6]]),
    ids=lambda m: str(m)[:60],
)  # fmt: skip
def test_adjoint_deis_tends_to_the_exact_gradient_along_the_same_noise(method):
    """At first order: at the start, at every draw and at the conditioning."""
    coarse, fine = (far(method, n, AdjointDEIS()) for n in (50, 150))
    assert all(
        (math.log(a / b, 3) > 0.6 or b < 1e-3) and b < 0.4 for a, b in zip(coarse, fine, strict=True)
    ), (coarse, fine)


def test_states_before_a_jump_are_those_of_the_run():
    """The network is asked at the end of every stretch: where the run stood before the noise, not after it."""
    model, plan, x, noise = problem(Ancestral(DDIM(), 0.6), 6, MIXTURE)
    seen: list[torch.Tensor] = []

    def spied(x, t, cond):
        seen.append(x.detach().clone())
        return model(x, t, cond)

    told = Denoiser(spied, model.process, model.prediction)
    out = sample(told, plan, x.requires_grad_(), cond=torch.zeros(2), noise=noise, gradient=AdjointDEIS())
    tops = seen[:]
    out.sum().backward()
    found, last = stretches(plan, 0)
    after = [*tops[1:], out.detach()]
    jumps = [*(s.jump for s in found[1:]), last]
    want = [(x - sum(c * noise[k] for c, k in j.noise)) / j.ratio for x, j in zip(after, jumps, strict=True)]
    assert all(torch.allclose(a, b) for a, b in zip(seen[-6:], want[::-1], strict=True))
    d = model(tops[0], torch.full((2,), plan.times[0]), torch.zeros(2))  # type: ignore[arg-type]
    t, s = found[0].bottom, found[0].top
    ratio = float(PROCESS.sigma(t) / PROCESS.sigma(s))
    assert torch.allclose(want[0], ratio * tops[0] + float(PROCESS.alpha(t) - PROCESS.alpha(s) * ratio) * d)


@pytest.mark.parametrize("method", JUMPS, ids=lambda m: str(m)[:60])
def test_stretches_lie_end_to_end(method):
    """Each falls, begins where the jump before it leads, and they end at the sample; noise is drawn in jumps alone."""
    _, plan, _, _ = problem(method, 12)
    found, last = stretches(plan, 0)
    assert all(s.bottom < s.top for s in found) and sorted(
        slot for jump in (*(s.jump for s in found), last) for _, slot in jump.noise
    ) == list(range(plan.slots))
    assert [s.step for s in found if s.opens] == list(range(12)) and found[0].top <= plan.times[0] * 1.2  # type: ignore
    for above, below in zip(found, found[1:], strict=False):
        ratio = float(PROCESS.alpha(below.top) / PROCESS.alpha(above.bottom))
        assert ratio == pytest.approx(below.jump.ratio, rel=1e-9)
        variance = sum(c * c for c, _ in below.jump.noise)
        sigma = (ratio * float(PROCESS.sigma(above.bottom))) ** 2 + variance
        assert math.sqrt(sigma) == pytest.approx(float(PROCESS.sigma(below.top)), rel=1e-9)


def test_a_truncated_run_with_jumps():
    """The gradient at the conditioning of the steps that are left, and none before."""
    model, plan, x, noise = problem(EDMHeun(4.0), 100)
    rows, found = torch.zeros(100, 1, 2, requires_grad=True), []
    for inner in (Direct(), AdjointDEIS()):
        out = sample(model, plan, x, cond=PerStep(rows), noise=noise, gradient=Truncated(40, inner))
        found.append(torch.autograd.grad(out.square().sum(), rows)[0])
    exact, ours = found
    assert not ours[:60].any() and float((ours - exact).norm() / exact.norm()) < 0.1
