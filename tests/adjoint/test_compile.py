"""A network compiled with torch.compile under every strategy: as eager, whole, and compiled once."""

import shutil

import pytest
import torch
from problems import PROCESS
from strategies import ESTIMATES, EXACT, STRATEGIES, network, plan_for
from torch import nn
from torch._dynamo.utils import counters

from pullback.adjoint import Checkpoint, Direct, Mechanism, Reversible, Truncated, sample
from pullback.solvers import DATA, Denoiser


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def gradients(net, params, strategy, steps=4):
    """Of a fixed start, for it and the parameters; x gets none past a truncation."""
    params = list(params)
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(1)).to(params[0].device).requires_grad_()
    torch.manual_seed(0)
    out = sample(Denoiser(net, PROCESS, DATA), plan_for(strategy, steps), x, gradient=strategy)
    grads = torch.autograd.grad(
        out.square().sum(), [x, *params], allow_unused=isinstance(strategy, Truncated)
    )
    return [out, *(g for g in grads if g is not None)]


def same(left, right, tolerance=1e-12):
    assert all(
        torch.allclose(a, b, rtol=tolerance, atol=tolerance * float(b.detach().abs().max()))
        for a, b in zip(left, right, strict=True)
    )


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_compiled_equals_eager_and_is_compiled_once(strategy, device):
    """One graph with gradients, one without; another number of steps and other times need no third."""
    net = network().to(device)
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True, dynamic=False)
    same(gradients(compiled, net.parameters(), strategy), gradients(net, net.parameters(), strategy))
    assert counters["stats"]["unique_graphs"] <= 2 and not counters["graph_break"]
    torch.compiler.set_stance("fail_on_recompile")
    try:
        gradients(compiled, net.parameters(), strategy, steps=6)
    finally:
        torch.compiler.set_stance("default")


@pytest.mark.parametrize("strategy", EXACT, ids=str)
def test_compiled_dropout_is_replayed(strategy, device):
    """The graph without gradients must draw what the graph with them draws in the replay."""
    net = network(nn.Dropout(0.3)).to(device)
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    same(gradients(compiled, net.parameters(), strategy), gradients(net, net.parameters(), strategy))


@pytest.mark.parametrize("strategy", ESTIMATES, ids=str)
def test_compiled_dropout_is_refused_elsewhere(strategy):
    net = network(nn.Dropout(0.3))
    with pytest.raises(ValueError, match="draws random numbers"):
        gradients(torch.compile(net, backend="aot_eager"), net.parameters(), strategy)


@pytest.mark.parametrize("how", ["wrapped", "in place", "part", "hidden", "function"])
@pytest.mark.parametrize(
    "strategy",
    [Checkpoint(), Reversible(), Truncated(9), Checkpoint(mechanism=Mechanism.REGION), Direct()],
    ids=str,
)
def test_a_gradient_of_the_gradient_is_refused(strategy, how):
    """PyTorch differentiates a compiled graph once; where the second pass is ours, it is refused before it starts."""
    net: nn.Module = network()
    if how == "part":
        net.inner[0] = torch.compile(net.inner[0], backend="aot_eager")  # type: ignore[index, operator]
    elif how == "in place":
        net.compile(backend="aot_eager")
    else:
        net = net if how == "function" else torch.compile(net, backend="aot_eager")  # type: ignore[assignment]
    x = torch.randn(2, 3, requires_grad=True)
    bare = {
        "hidden": lambda x, t: net(x, t),
        "function": torch.compile(lambda x, t: net(x, t), backend="aot_eager"),
    }
    called = bare.get(how, net)
    loss = sample(Denoiser(called, PROCESS, DATA), plan_for(strategy), x, gradient=strategy).square().sum()
    ours = strategy in (Checkpoint(), Reversible(), Truncated(9)) and how != "function"
    with pytest.raises(
        RuntimeError, match="compiled network, expected an eager one" if ours else "double backward"
    ):
        (grad,) = torch.autograd.grad(loss, x, create_graph=True)
        grad.square().sum().backward()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_inductor_equals_eager(strategy, device):
    net = network().to(device)
    compiled = torch.compile(net, fullgraph=True)
    same(gradients(compiled, net.parameters(), strategy), gradients(net, net.parameters(), strategy))
