"""JacobianFree: held predictions make straight lines, so gradients in closed form; what it keeps and refuses."""

from typing import Any

import pytest
import torch
from everything import GRID, everything
from problems import MIXTURE, PROCESS, every_method, thinned, warped
from torch import nn

from pullback.adjoint import Direct, JacobianFree, PerStep, Truncated, sample, trajectory
from pullback.guidance import Over, optimise
from pullback.solvers import (
    DATA,
    DDIM,
    EDM,
    FLOW,
    NOISE,
    VP,
    Addressed,
    Denoiser,
    DPMSolverPP,
    EDMHeun,
    FlowEuler,
    FlowHeun,
    Karras,
    Mixture,
    Prediction,
    RectifiedFlow,
    UniformLambda,
    UniformT,
    coefficients,
    convert,
)

VP_TIMES = PROCESS.time(warped(7))
STRAIGHT = UniformT(6, start=1.0, end=0.0)


def slope(method, process, grid, held: Prediction, model=None, **inputs) -> torch.Tensor:
    """dx_0/dx_T of a run, entry by entry, which a run of held predictions has the same everywhere."""
    plan = method.plan(process, grid)
    x = torch.randn(3, 2, requires_grad=True)
    out = sample(model or MIXTURE.denoiser(process), plan, x, gradient=JacobianFree(held), **inputs)
    return torch.autograd.grad(out.sum(), x)[0]


def flow(process=RectifiedFlow(), law: Mixture = MIXTURE) -> Denoiser:
    data = law.denoiser(process)
    return Denoiser(
        lambda x, t: convert(data(x, t), x, DATA, FLOW, process, t.clamp(1e-6, 1 - 1e-6)), process, FLOW
    )


def assert_all(got: torch.Tensor, value: float) -> None:
    assert torch.allclose(got, torch.full_like(got, value), rtol=1e-11, atol=0)


# EDMPEC integrates EDM's own F, and a flow's velocity bends: neither holds a constant eps exactly
EXACT = [m for m in every_method() if not m.stochastic and "Flow" not in str(m) and "EDMPEC" not in str(m)]


@pytest.mark.parametrize("method", thinned(EXACT), ids=str)
@pytest.mark.parametrize("process", [VP(), EDM()], ids=str)
def test_the_held_noise_gives_the_ratio_of_alphas(method, process):
    """x_t = alpha x_0 + sigma eps with eps held: whatever integrates a constant exactly, whatever its history."""
    times = process.time(warped(7))
    ends = process.alpha(times[[0, -1]])
    assert_all(slope(method, process, times, NOISE), float(ends[1] / ends[0]))


@pytest.mark.parametrize("method", [DDIM(), DPMSolverPP(2), DPMSolverPP(3), EDMHeun()], ids=str)
def test_held_data_gives_the_ratio_of_sigmas(method):
    ends = PROCESS.sigma(VP_TIMES[[0, -1]])
    assert_all(slope(method, PROCESS, VP_TIMES, DATA), float(ends[1] / ends[0]))


@pytest.mark.parametrize("method", [FlowEuler(), FlowHeun(), DDIM(), DPMSolverPP(2)], ids=str)
def test_the_held_velocity_of_a_rectified_flow_gives_the_identity(method):
    """FlowChef: from alpha = 0 to sigma = 0."""
    assert_all(slope(method, RectifiedFlow(), STRAIGHT, FLOW, flow()), 1.0)


def test_noise_and_controls_are_carried_by_the_same_ratios():
    plan: Any = DDIM(1.0).plan(PROCESS, VP_TIMES)
    model, steps = MIXTURE.denoiser(PROCESS), 7
    noise, controls = (torch.randn(steps, 3, 2, requires_grad=True) for _ in range(2))
    out = sample(model, plan, torch.randn(3, 2), noise=noise, controls=controls, gradient=JacobianFree())
    by_noise, by_control = torch.autograd.grad(out.sum(), [noise, controls])
    alpha = PROCESS.alpha(VP_TIMES)
    drawn = [op.noise[0][0] for op in plan.instructions if getattr(op, "noise", ())]
    for k in range(steps):
        assert_all(by_control[k], float(alpha[-1] / alpha[k]))
        assert_all(by_noise[k], float(drawn[k] * alpha[-1] / alpha[k + 1]))


def test_a_state_on_the_way_and_a_grid_for_each_sample():
    x, model = torch.randn(3, 2, requires_grad=True), MIXTURE.denoiser(PROCESS)
    times = torch.stack([VP_TIMES, 0.9 * VP_TIMES, 0.8 * VP_TIMES], 1)
    middle, end = trajectory(model, DPMSolverPP(2).plan(PROCESS, times), x, [4, 7], gradient=JacobianFree())
    alpha = PROCESS.alpha(times)
    for node, state in ((4, middle), (7, end)):
        (got,) = torch.autograd.grad(state.sum(), x, retain_graph=True)
        assert torch.allclose(got, (alpha[node] / alpha[0])[:, None].expand(3, 2), rtol=1e-11)


@pytest.mark.parametrize("method", [DDIM(0.5), DPMSolverPP(3), EDMHeun()], ids=str)
def test_the_sample_is_that_of_plain_sampling_to_the_last_bit(method):
    plan, x = method.plan(PROCESS, GRID), torch.randn(4, 2, dtype=torch.float32, requires_grad=True)
    got, plain = (
        sample(MIXTURE.denoiser(PROCESS), plan, x, noise=Addressed(1), gradient=g)
        for g in (JacobianFree(), None)
    )
    assert torch.equal(got, plain)


class Wide(nn.Module):
    """Its activations are a hundred times its state."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 300), nn.Tanh(), nn.Linear(300, 3))

    def forward(self, x, t):
        return self.body(x)


def kept(gradient, steps: int) -> int:
    """Numbers that autograd holds for the backward pass of a run, weights apart."""
    held, net = [], Wide()
    weights = {p.data_ptr() for p in net.parameters()}

    def pack(tensor):
        held.append(0 if tensor.data_ptr() in weights else tensor.numel())
        return tensor

    plan = DPMSolverPP(2).plan(PROCESS, UniformLambda(steps, start=0.9, end=0.05))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        sample(Denoiser(net, PROCESS, DATA), plan, torch.randn(8, 3, requires_grad=True), gradient=gradient)
    return sum(held)


def test_nothing_is_kept():
    """No activation and no state: at most a number or two a call."""
    assert kept(JacobianFree(), 20) <= 2 * 20 < 20 * 8 * 300 < kept(Direct(), 20)


def test_the_network_is_called_once_a_call_and_never_differentiated():
    plan, x = DPMSolverPP(2).plan(PROCESS, GRID), torch.randn(3, 2, requires_grad=True)
    calls, data = [], MIXTURE.denoiser(PROCESS)

    def network(x, t):
        calls.append(torch.is_grad_enabled())
        return data(x, t)

    sample(Denoiser(network, PROCESS, DATA), plan, x, gradient=JacobianFree()).sum().backward()
    assert calls == [False] * plan.nfe and JacobianFree().cost(plan) == (plan.nfe, 0)


def test_parameters_and_conditioning_get_none_and_are_told_when_alone():
    plan, net, x = DDIM().plan(PROCESS, GRID), Wide(), torch.randn(2, 3)
    with pytest.raises(ValueError, match="expected it at x, noise or controls; use Checkpoint"):
        sample(Denoiser(net, PROCESS, DATA), plan, x, gradient=JacobianFree())
    cond = PerStep(torch.zeros(6, 2, requires_grad=True))
    with pytest.raises(ValueError, match="expected it at x, noise or controls"):
        sample(MIXTURE.denoiser(PROCESS), plan, torch.randn(3, 2), cond=cond, gradient=JacobianFree())
    with pytest.raises(ValueError, match="none of which requires grad"):
        sample(Denoiser(net.requires_grad_(False), PROCESS, DATA), plan, x, gradient=JacobianFree())
    with pytest.raises(ValueError, match="expected it at x"):
        sample(
            Denoiser(Wide(), PROCESS, DATA),
            plan,
            x.requires_grad_(),
            gradient=Truncated(2, inner=JacobianFree()),
        )
    net.requires_grad_(True)
    sample(Denoiser(net, PROCESS, DATA), plan, x, gradient=JacobianFree()).sum().backward()
    assert x.grad is not None and all(p.grad is None for p in net.parameters())


def test_coefficients_are_refused():
    plan, model, x = (
        DDIM().plan(PROCESS, GRID),
        MIXTURE.denoiser(PROCESS),
        torch.randn(2, 2, requires_grad=True),
    )
    numbers = coefficients(plan, model).clone().requires_grad_()
    with pytest.raises(ValueError, match="expected it at x, noise or controls"):
        sample(model, plan, x, coefficients=numbers, gradient=JacobianFree())


def test_noise_that_does_not_determine_the_data_is_refused():
    """At alpha = 0 eps says nothing of x_0."""
    with pytest.raises(ValueError, match="does not determine DATA at t=1"):
        slope(DDIM(), RectifiedFlow(), STRAIGHT, NOISE, flow())


def test_every_kind_of_input_is_taken():
    """x, per-step and nested conditioning, noise, controls and dropout: only what is linear gets a gradient."""
    with pytest.raises(RuntimeError, match="not have been used|appears to not"):
        everything(DDIM(0.5), JacobianFree())


def test_it_descends_where_the_exact_gradient_does():
    plan, model = DDIM(0.5).plan(PROCESS, UniformLambda(8, start=0.95, end=0.03)), MIXTURE.denoiser(PROCESS)
    goal = torch.tensor([1.0, 0.3])
    found = optimise(
        model, plan, lambda x: (x - goal).square().sum(1), torch.randn(4, 2), noise=Addressed(0),
        over=Over(x=True, noise=True, controls=True), steps=15, gradient=JacobianFree(), progress=False,
    )  # fmt: skip
    assert bool((found.loss < 0.2 * found.losses[0]).all())
    assert found.vjps == 0 and found.nfe == 15 * plan.nfe + plan.nfe


def test_one_karras_step_by_hand():
    """x_s = r x + g D with D = (x - sigma eps)/alpha: (r alpha + g)/alpha."""
    plan: Any = DDIM().plan(PROCESS, Karras(1, start=0.8, end=0.1))
    (ratio, _), (gain, _) = plan.instructions[1].terms
    alpha = float(PROCESS.alpha(0.8))
    assert_all(slope(DDIM(), PROCESS, Karras(1, start=0.8, end=0.1), NOISE), ratio + gain / alpha)
