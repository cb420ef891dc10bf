"""Networks and plans that `Parallel` cannot take are refused in words; what changes between its passes is an error."""

from dataclasses import replace

import pytest
import torch
from problems import PROCESS
from strategies import Conditioned, network, start
from torch import nn

from pullback.adjoint import Parallel, sample
from pullback.solvers import DATA, DDIM, Apply, Denoiser, DPMSolverPP, UniformT, coefficients

GRID = UniformT(4, start=0.9, end=0.05)


class _Falling(nn.Module):
    """Infinite for samples that are far out."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, t):
        return self.net(x, t) / (x[:, :1] < 5).to(x)


def refused(called, match, plan=None, strategy=Parallel(tol=0.0), error=ValueError, **given):
    x = torch.randn(2, 3, requires_grad=True)
    with pytest.raises(error, match=match):
        model = Denoiser(called, PROCESS, DATA)
        sample(model, plan or DPMSolverPP(2).plan(PROCESS, GRID), x, gradient=strategy, **given)


def test_networks_that_cannot_be_called_on_several_steps_are_refused():
    """No output would tell: dropout, a way taken by t[0], batch mates mixed, conditioning taken for another axis."""
    net = network()
    refused(network(nn.Dropout(0.5)), "draws random numbers")
    refused(lambda x, t: net(x, t) * (2.0 if 0.3 < float(t[0]) < 0.6 else 1.0), "reads numbers")
    refused(lambda x, t: net(x, t) * (2.0 if t.tolist()[0] < 0.6 else 1.0), "reads numbers")
    refused(lambda x, t: net(x - x.mean(0), t), "another output .* several steps")
    refused(lambda x, t: net(x, t[:1].expand(len(x))), "another output .* several steps")
    refused(
        lambda x, t, cond: net(x, t) * cond.norm(), "another output .* several steps", cond=torch.randn(2)
    )


def test_plans_and_networks_that_are_refused():
    net = network()
    plan = DPMSolverPP(2).plan(PROCESS, GRID)
    applied = replace(plan, instructions=(*plan.instructions, Apply(("x",), ("x",), torch.tanh)))
    refused(net, "Apply instructions", applied)
    refused(torch.compile(net, backend="eager"), "compiled network")
    held = torch.randn(3, requires_grad=True).exp()
    refused(lambda x, t: net(x, t) * held, "graph of its own")
    numbers = coefficients(plan, Denoiser(net, PROCESS, DATA)).requires_grad_()
    refused(net, "coefficients that require grad", coefficients=numbers)
    mixed = [replace(op, then=torch.tanh) if k == 0 else op for k, op in enumerate(plan.instructions)]
    refused(net, "different functions", replace(plan, instructions=tuple(mixed)))
    refused(net, "hold another", DDIM().plan(PROCESS, UniformT(4, start=1.0)), Parallel(base=_undetermined()))


def _undetermined():
    from pullback.solvers import Prediction

    return Prediction("NOTHING", lambda p, t: (p.alpha(t), p.sigma(t)))  # x itself says nothing of x_0


@pytest.mark.parametrize("window", [None, 2])
def test_a_network_that_changed_in_between_is_an_error(window):
    strategy = Parallel(window)
    out, net, *_ = start(strategy)
    with torch.no_grad():
        net.table.weight += 1
    with pytest.raises(RuntimeError, match="changed in place between forward and backward"):
        out.sum().backward()
    out, net, *_ = start(strategy, Conditioned())
    net.gain = 2.0
    with pytest.raises(RuntimeError, match="another output in the backward pass"):
        out.sum().backward()


def test_samples_that_are_lost_end_the_run_and_are_named():
    """It ends: no sweep can make them settle. Their mates cannot be kept here, and are not without a word."""
    model, plan = Denoiser(_Falling(network()), PROCESS, DATA), DPMSolverPP(2).plan(PROCESS, GRID)
    x = torch.tensor([[0.3], [50.0], [-0.2]]).expand(3, 3).clone().requires_grad_()
    with pytest.raises(FloatingPointError, match=r"step 0 .* for samples \[1\] of 3"):
        sample(model, plan, x, gradient=Parallel())
    with (
        pytest.warns(RuntimeWarning, match=r"samples \[1\]"),
        pytest.raises(ValueError, match="keep_finite.* use Checkpoint"),
    ):
        sample(model, plan, x, gradient=Parallel(), keep_finite=True)
