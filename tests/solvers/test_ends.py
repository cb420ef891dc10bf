"""Ends: other methods at the first and last steps. Against loops by hand, and each method against itself."""

import functools
import math
import pickle
from typing import Any

import pytest
import torch
from everything import assert_same
from problems import MIXTURE, PROCESS, every_method, thinned, warped
from torch import nn

from pullback.adjoint import Checkpoint, Continuous, Direct, sample
from pullback.adjoint.continuous import second_plan
from pullback.solvers import (
    BDIA,
    DDIM,
    DEIS,
    NOISE,
    Clamp,
    Combine,
    CosineVP,
    Coupled,
    Denoiser,
    DPMSolverPP,
    DPMSolverPPSingle,
    EDMHeun,
    Ends,
    Evaluate,
    FlowAdams,
    OnData,
    Restart,
    SASolver,
    UniformT,
    UniPC,
    expand,
    run,
)
from pullback.solvers.methods.reversible_method import ReversibleMethod

GRID = PROCESS.time(warped(7))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 2))

    def forward(self, x, t):
        return self.body(torch.cat([x, t[:, None]], 1)) + 0.3 * x


def mixed_by_hand(network, x, t):
    """Euler in lambda on D; exponential Adams of order 2 in lambda, on eps; at the end 2M on D, then Euler."""
    alpha, sigma, lam = PROCESS.alpha(t), PROCESS.sigma(t), PROCESS.lam(t)
    eps, data = [], []
    n = len(t) - 1
    for i in range(n):
        eps.append(network(x, t[i].expand(len(x))))
        data.append((x - sigma[i] * eps[i]) / alpha[i])
        h = lam[i + 1] - lam[i]
        if i == 0 or i == n - 1:
            x = sigma[i + 1] / sigma[i] * x - alpha[i + 1] * torch.expm1(-h) * data[i]
        elif i == n - 2:
            slope = data[i] + 0.5 * h / (lam[i] - lam[i - 1]) * (data[i] - data[i - 1])
            x = sigma[i + 1] / sigma[i] * x - alpha[i + 1] * torch.expm1(-h) * slope
        else:  # INT of the line in t through (t_i, eps_i) and (t_{i-1}, eps_{i-1}) against e^-lam dlam, by Simpson
            fine = lam[i] + h * torch.linspace(0, 1, 2001, dtype=torch.float64)
            share = (PROCESS.time(fine) - t[i]) / (t[i - 1] - t[i])
            weight = torch.tensor([1.0] + [4.0, 2.0] * 999 + [4.0, 1.0], dtype=torch.float64) * h / 6000
            now, before = (-(weight * (-fine).exp() * part).sum() for part in (1 - share, share))
            x = alpha[i + 1] * (x / alpha[i] + now * eps[i] + before * eps[i - 1])
    return x


def test_histories_in_two_forms_are_a_loop_by_hand_with_its_gradients():
    network, x = Net(), torch.randn(5, 2, requires_grad=True)
    plan = Ends(DEIS(2), (DDIM(),), (DPMSolverPP(2), DDIM())).plan(PROCESS, GRID)
    want = mixed_by_hand(network, x, GRID)
    inputs = [x, *network.parameters()]
    grads = torch.autograd.grad(want.square().sum(), inputs)
    for strategy in (Direct(), Checkpoint()):
        out = sample(Denoiser(network, PROCESS, NOISE), plan, x, gradient=strategy)
        assert torch.allclose(out, want, atol=1e-12)
        assert_same(torch.autograd.grad(out.square().sum(), inputs), grads, 1e-11)
    assert (
        plan.nfe == plan.steps and sum(isinstance(op, Combine) for op in plan.instructions) == plan.steps + 2
    )


@pytest.mark.parametrize("method", thinned(every_method()), ids=str)
def test_a_method_between_its_own_ends_is_itself(method):
    if isinstance(method, ReversibleMethod):
        with pytest.raises(ValueError, match="carries a second state"):
            Ends(method)
        return
    if isinstance(method, Restart) and not isinstance(method.base, EDMHeun):
        with pytest.raises(ValueError, match=r"leaves D\d_?.* expected the prediction of node|leaves D"):
            Ends(method).plan(PROCESS, GRID)
        return
    base = method.plan(PROCESS, GRID)
    for ends in (Ends(method), Ends(method, (method, method), (method,)), Ends(DDIM(), 9 * (method,))):
        if isinstance(method, Ends) and len(ends.tail):
            continue  # the tail is the last of the whole plan's
        plan = ends.plan(PROCESS, GRID)
        assert plan.instructions == base.instructions and plan.stochastic == base.stochastic
        assert pickle.loads(pickle.dumps(plan)) == plan and ends.order <= max(method.order, 2)


def test_which_method_takes_which_step():
    mixed = Ends(DDIM(), (UniPC(), DEIS()), (DPMSolverPP(3), DPMSolverPP(2)))
    names = [type(mixed.at(i, 6)).__name__ for i in range(6)]
    assert names == ["UniPC", "DEIS", "DDIM", "DDIM", "DPMSolverPP", "DPMSolverPP"]
    assert [mixed.at(i, 6).order for i in (4, 5)] == [3, 2]
    assert [str(mixed.at(i, 3)) for i in range(3)] == [
        str(m) for m in (UniPC(), DPMSolverPP(3), DPMSolverPP(2))
    ]
    assert mixed.at(0, 1) == DPMSolverPP(2)
    for n in (1, 2, 3):
        plan = mixed.plan(PROCESS, PROCESS.time(warped(n)))
        assert run(MIXTURE.denoiser(PROCESS), plan, torch.randn(2, 2)).isfinite().all()


def test_the_order_is_that_of_the_worst_step_and_one():
    """`test_order` measures the first, the third, and one with noise."""
    for method, order in (
        (Ends(DEIS(4, starter=True), tail=(DDIM(),)), 2),
        (Ends(DPMSolverPP(3), 2 * (DPMSolverPPSingle(3),), (DPMSolverPP(2), DDIM())), 2),
        (Ends(DEIS(3), 2 * (DPMSolverPPSingle(3),), (DPMSolverPP(2),)), 3),
        (Ends(DEIS(4), 3 * (DPMSolverPPSingle(3),), (DPMSolverPP(2),)), 3),
        (Ends(DPMSolverPP(3), (DPMSolverPP(2), DPMSolverPP(2))), 2),
        (Ends(DPMSolverPP(3, starter=True), (DPMSolverPP(3, starter=True),)), 3),
        (Ends(DDIM(), tail=(DPMSolverPP(3),)), 1),
    ):
        assert method.order == order == method.plan(PROCESS, GRID).order


@functools.cache
def solved(method, n):
    x = torch.randn(16, 2, generator=torch.Generator().manual_seed(3)).requires_grad_()
    out = run(MIXTURE.denoiser(PROCESS), method.plan(PROCESS, PROCESS.time(warped(n))), x)
    return out.detach(), torch.autograd.grad(out.square().sum(), x)[0]


@pytest.mark.slow
@pytest.mark.parametrize("ends", [{"tail": (DDIM(),)}, {"head": (DDIM(),)}], ids=str)
def test_one_step_of_order_one_leaves_second_order(ends):
    """h^2 once, whatever the rest is: state and gradient, in the limit."""
    truth, method = solved(DEIS(4, starter=True), 1200), Ends(DEIS(4, starter=True), **ends)
    errors = [
        [float((a - b).norm()) for a, b in zip(solved(method, n), truth, strict=True)] for n in (256, 512)
    ]
    for coarse, fine in zip(*errors, strict=True):
        assert math.log2(coarse / fine) == pytest.approx(method.order, abs=0.12) and method.order == 2


@pytest.mark.parametrize(
    "tail", [DEIS(2), DPMSolverPP(2), DDIM(), FlowAdams(2), SASolver(2, 3, tau=0.0)], ids=str
)
def test_what_a_corrector_evaluated_is_not_asked_for_again(tail):
    plan = Ends(UniPC(2), tail=(tail,)).plan(PROCESS, GRID)
    assert plan.nfe == plan.steps
    times = [op.t for op in plan.instructions if isinstance(op, Evaluate)]
    assert times == sorted(set(times), reverse=True)
    first = Ends(tail, (UniPC(2),)).plan(PROCESS, GRID)
    assert first.nfe == first.steps


def test_one_method_in_three_forms_is_one():
    """DDIM on data, on noise and on the velocity of a rectified flow, in any order of steps."""
    table = expand(DDIM().plan(PROCESS, GRID))
    for head in ((DEIS(1), DDIM()), (DDIM(), DPMSolverPP(1), DEIS(1)), 4 * (DEIS(1),)):
        assert torch.allclose(expand(Ends(DDIM(), head).plan(PROCESS, GRID)), table, atol=1e-12)


def test_to_both_ends_of_a_process():
    """From alpha = 0 to sigma = 0, where one form does not give the others."""
    process = CosineVP()
    plan = Ends(DEIS(3), (DDIM(),), (DPMSolverPP(2),)).plan(process, UniformT(8))
    assert run(MIXTURE.denoiser(process), plan, torch.randn(3, 2)).isfinite().all() and plan.nfe == 8
    with pytest.raises(ValueError, match=r"reads? \['u0'\], which nothing wrote"):
        Ends(FlowAdams(2), (DDIM(),)).plan(process, UniformT(8))


def test_around_other_compositions():
    x, model = torch.randn(3, 2), MIXTURE.denoiser(PROCESS)
    outside = OnData(Ends(DEIS(2), (DDIM(),)), Clamp(-0.5, 0.5)).plan(PROCESS, GRID)
    inside = Ends(OnData(DEIS(2), Clamp(-0.5, 0.5)), (OnData(DDIM(), Clamp(-0.5, 0.5)),)).plan(PROCESS, GRID)
    assert (
        torch.allclose(run(model, outside, x), run(model, inside, x), atol=1e-12)
        and outside.nfe == inside.nfe == 7
    )
    with pytest.raises(ValueError, match="which goes by how many steps there are"):
        Coupled(Ends(DDIM(), (DDIM(),)))
    with pytest.raises(ValueError, match="leaves D0 at t="):
        Ends(Restart(DDIM())).plan(PROCESS, GRID)
    ends: Any = Ends
    for wrong in (lambda: ends(DDIM(), DDIM()), lambda: ends(DDIM(), tail=[DDIM()])):
        with pytest.raises(TypeError, match="tuple"):
            wrong()
    with pytest.raises(ValueError, match="carries a second state"):
        Ends(DDIM(), tail=(BDIA(),))


def test_a_long_plan_in_pieces(monkeypatch):
    """A second plan whose history changes its form is the same in pieces: no gradient is lost between two."""
    method, x = Ends(DEIS(2), 5 * (DDIM(),), 4 * (DPMSolverPP(2),)), torch.randn(3, 2, requires_grad=True)
    plan = DPMSolverPP(2).plan(PROCESS, PROCESS.time(warped(20)))

    def gradient():
        out = sample(MIXTURE.denoiser(PROCESS), plan, x, gradient=Continuous(method=method))
        return torch.autograd.grad(out.square().sum(), x)[0]

    whole = gradient()
    for piece in (1, 3, 5, 16):
        monkeypatch.setattr(second_plan, "PIECE", piece)
        assert torch.allclose(gradient(), whole, rtol=1e-12, atol=1e-14)


def test_a_function_is_not_lost_on_a_prediction_of_another_step():
    """UniPC's corrector makes D1 before the step whose clamp it would need."""
    with pytest.raises(ValueError, match=r"applies Clamp.* to D1, which a step before it made without"):
        Ends(OnData(DPMSolverPP(2), Clamp(-0.1, 0.1)), head=(UniPC(2),)).plan(
            PROCESS, PROCESS.time(warped(6))
        )
