"""Gradients for the plan's own numbers: coefficients, grid times, eta, process parameters, guidance scale."""

import pytest
import torch
from problems import MIXTURE, PROCESS

from pullback.adjoint import Checkpoint, Direct, Reversible, sample
from pullback.solvers import (
    DDIM,
    NOISE,
    VP,
    Addressed,
    ClassifierFree,
    Denoiser,
    DPMSolverPP,
    ReversibleHeun,
    UniformLambda,
    coefficients,
    compiled,
    run,
)

X = torch.randn(3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def difference(value, theta, k, step=1e-5):
    ends = []
    for sign in (1, -1):
        moved = theta.detach().clone()
        moved[k] += sign * step
        ends.append(float(value(moved)))
    return (ends[0] - ends[1]) / (2 * step)


@pytest.mark.parametrize("gradient", [Direct(), Checkpoint()], ids=str)
@pytest.mark.parametrize("case", ["times", "eta", "process"])
def test_against_finite_differences_of_the_whole_run(case, gradient):
    times = PROCESS.time(torch.linspace(-2.0, 2.0, 6))

    def make(theta):
        if case == "times":
            return DPMSolverPP(2).plan(PROCESS, theta)
        if case == "eta":
            return DDIM(float(theta[0])).plan(PROCESS, times)
        return DPMSolverPP(2).plan(
            VP(float(theta[0]), float(theta[1])), UniformLambda(5, start=0.9, end=0.05)
        )

    def model(theta):
        process = VP(float(theta[0]), float(theta[1])) if case == "process" else PROCESS
        return Denoiser(lambda x, t: torch.tanh(x * (1 + t[:, None])), process, NOISE)

    theta = {"times": times, "eta": torch.tensor([0.5]), "process": torch.tensor([0.1, 20.0])}[
        case
    ].requires_grad_()
    plan, values = compiled(make, theta, model(theta))
    out = sample(model(theta), plan, X, coefficients=values, noise=Addressed(1), gradient=gradient)
    assert torch.allclose(out, run(model(theta), plan, X, noise=Addressed(1)), atol=1e-12)
    (got,) = torch.autograd.grad(out.square().sum(), theta)
    for k in range(len(theta)):
        want = difference(lambda v: run(model(v), make(v), X, noise=Addressed(1)).square().sum(), theta, k)
        assert float(got[k]) == pytest.approx(want, rel=1e-5, abs=1e-7)


def test_raw_coefficients_pass_gradcheck():
    plan, model = (
        DPMSolverPP(2).plan(PROCESS, UniformLambda(3, start=0.9, end=0.1)),
        MIXTURE.denoiser(PROCESS),
    )
    values = coefficients(plan, model).requires_grad_()
    assert torch.autograd.gradcheck(lambda c: sample(model, plan, X, coefficients=c), (values,))


def test_an_end_of_the_process_is_differentiated_from_inside():
    theta = torch.tensor([1.0, 0.6, 0.2], requires_grad=True)  # t = 1 is the process's last time
    plan, values = compiled(lambda t: DDIM().plan(PROCESS, t), theta, MIXTURE.denoiser(PROCESS))
    (got,) = torch.autograd.grad(sample(MIXTURE.denoiser(PROCESS), plan, X, coefficients=values).sum(), theta)
    assert bool(got.isfinite().all()) and float(got[0]) != 0


def test_guidance_scale_receives_its_gradient():
    scale = torch.tensor(2.0, requires_grad=True)
    base = Denoiser(lambda x, t, c: torch.tanh(x + c), PROCESS, NOISE)
    plan = DPMSolverPP(2).plan(PROCESS, UniformLambda(5, start=0.9, end=0.05))
    cond = torch.ones(2)

    def value(s, gradient):
        return (
            sample(ClassifierFree(base, s, torch.zeros(2)), plan, X, cond=cond, gradient=gradient)
            .square()
            .sum()
        )

    for gradient in (Direct(), Checkpoint()):
        (got,) = torch.autograd.grad(value(scale, gradient), scale)
        step = 1e-6
        want = float(value(scale.detach() + step, None) - value(scale.detach() - step, None)) / (2 * step)
        assert float(got) == pytest.approx(want, rel=1e-6)


def test_refusals():
    plan, model = (
        ReversibleHeun().plan(PROCESS, UniformLambda(3, start=0.9, end=0.1)),
        MIXTURE.denoiser(PROCESS),
    )
    values = coefficients(plan, model).requires_grad_()
    with pytest.raises(ValueError, match="coefficients: got shape"):
        sample(model, plan, X, coefficients=values[:3])
    with pytest.raises(ValueError, match="coefficients that require grad"):
        sample(model, plan, X, coefficients=values, gradient=Reversible())
    with pytest.raises(ValueError, match="float64"):
        compiled(lambda t: plan, torch.zeros(2, dtype=torch.float32), model)
