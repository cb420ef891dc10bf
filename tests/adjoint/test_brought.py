"""What the network brings along: captured tensors, random numbers, buffers, precision, and what it shares
with others.
"""

import pytest
import torch
from problems import PROCESS
from strategies import ESTIMATES, EXACT, REPLAYING, STRATEGIES, close, network, plain, plan_for, start
from torch import nn

from pullback.adjoint import AdjointDEIS, Auto, Continuous, Direct, Reversible, sample
from pullback.solvers import DATA, Denoiser, Evaluate, ReversibleHeun, UniformT


class Holding(nn.Module):
    """A module with a tensor among its attributes that it never registered."""

    def __init__(self, net, held):
        super().__init__()
        self.net, self.held = net, held

    def forward(self, x, t):
        return self.net(x, t) * self.held.exp()


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_a_captured_tensor_is_as_good_as_a_declared_one(strategy):
    """A leaf, one with a graph of its own, and one behind a module: its gradient as in cond, or an error that
    says so.
    """

    def run(body, net, **cond):
        x = torch.ones(2, 3, requires_grad=True)
        out = sample(Denoiser(body, PROCESS, DATA), plan_for(strategy), x, gradient=strategy, **cond)
        return torch.autograd.grad(out.square().sum(), [*net.parameters(), root])

    net, root = network(), torch.randn(3, requires_grad=True)
    grown = root.exp()
    want = run(lambda x, t, cond: net(x, t) * cond, net, cond=grown)
    close(run(lambda x, t: net(x, t) * root.exp(), net), want)
    close(run(Holding(net, root), net), want)
    grown = root.exp()
    if strategy in EXACT and "Reversible" not in str(strategy):
        close(run(lambda x, t: net(x, t) * grown, net), want)
    else:
        with pytest.raises(ValueError, match="graph of its own; pass it in cond"):
            run(lambda x, t: net(x, t) * grown, net)


@pytest.mark.parametrize("lonely", [False, True])
@pytest.mark.parametrize("strategy", [*STRATEGIES, Continuous(2), AdjointDEIS(steps=2), Auto()], ids=str)
def test_a_tensor_captured_by_one_call_only(strategy, lonely):
    """By the last call: also where an adjoint would never evaluate there."""
    late, plan = torch.randn(3, requires_grad=True), plan_for(strategy)
    x, calls = (
        torch.ones(2, 3, requires_grad=not lonely),
        [op.t for op in plan.instructions if isinstance(op, Evaluate)],
    )

    def body(x, t):
        return torch.tanh(x) * (late if float(t[0]) == pytest.approx(calls[-1]) else 1.0)

    def run(gradient):
        out = sample(Denoiser(body, PROCESS, DATA), plan, x, gradient=gradient).square().sum()
        late.grad = None
        out.backward()
        return [late.grad]

    if isinstance(strategy, Direct) or "Mechanism.REGION" in str(strategy) or "inner=Direct" in str(strategy):
        close(run(strategy), run(Direct()))
    else:
        with pytest.raises(RuntimeError, match="the first call did not; .*Mechanism.REGION"):
            run(strategy)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_random_numbers_and_written_buffers(strategy, device):
    """Dropout is replayed bit for bit or refused; batch normalisation in train mode too."""

    def grads(gradient, *middle):
        torch.manual_seed(0)
        net, x = network(*middle).to(device), torch.ones(2, 3, device=device, requires_grad=True)
        torch.manual_seed(1)
        out = sample(Denoiser(net, PROCESS, DATA), plan_for(strategy), x, gradient=gradient)
        torch.rand(7, device=device)  # what is drawn in between is no matter
        return [out, *torch.autograd.grad(out.square().sum(), list(net.parameters()))]

    if strategy in ESTIMATES:
        with pytest.raises(ValueError, match="draws random numbers"):
            grads(strategy, nn.Dropout(0.4))
    else:
        close(grads(strategy, nn.Dropout(0.4)), grads(plain(strategy), nn.Dropout(0.4)))
    close(grads(strategy, nn.BatchNorm1d(8).eval()), grads(strategy, nn.BatchNorm1d(8, eps=1e-5).eval()))
    if strategy in REPLAYING:
        with pytest.raises(RuntimeError, match="batch normalisation in train mode"):
            grads(strategy, nn.BatchNorm1d(8))


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_autocast_is_restored(strategy, device):
    """Every call of the network in the backward pass sees the precision of the forward pass."""
    seen = []

    class Seeing(nn.Linear):
        def forward(self, input):
            out = super().forward(input)
            seen.append(out.dtype)
            return out

    net = network(Seeing(8, 8)).to(device, torch.float32)
    x = torch.ones(2, 3, dtype=torch.float32, device=device, requires_grad=True)
    with torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=False):
        out = sample(Denoiser(net, PROCESS, DATA), plan_for(strategy), x, gradient=strategy)
    count = len(seen)
    got = torch.autograd.grad(out.square().sum(), list(net.parameters()))
    assert set(seen) == {torch.bfloat16} and (len(seen) > count) == (strategy in REPLAYING)
    assert all(g.dtype == torch.float32 for g in got)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_a_gradient_of_the_gradient(strategy):
    def second(gradient):
        out, _, wanted, *_ = start(gradient, plan=plan_for(strategy))
        first = torch.autograd.grad(out.square().sum(), wanted, create_graph=True)
        return torch.autograd.grad(torch.stack([g.square().sum() for g in first]).sum(), wanted)

    if strategy in ESTIMATES:
        with pytest.raises(RuntimeError, match="cannot be differentiated once more"):
            second(strategy)
    else:
        close(second(strategy), second(plain(strategy)), 1e-9)


@pytest.mark.slow
def test_a_gradient_of_the_gradient_of_a_long_run_in_float32():
    """`Reversible` runs in float64 and differentiates twice in float32: rounding is no change of the network."""
    body = nn.Sequential(nn.Linear(3, 64), nn.Tanh(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 3))
    body = body.float().requires_grad_(False)
    plan = ReversibleHeun().plan(PROCESS, UniformT(1000, start=0.9, end=0.05))
    x = torch.randn(2, 3, dtype=torch.float32, requires_grad=True)
    out = sample(Denoiser(lambda x, t: body(x), PROCESS, DATA), plan, x, gradient=Reversible(tolerance=1.0))
    (grad,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
    assert grad.requires_grad and bool(grad.isfinite().all())
