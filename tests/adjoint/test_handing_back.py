"""A backward pass makes the gradients that are asked for, hands each back once, and says which it does not give."""

import pytest
import torch
from problems import PROCESS
from strategies import ESTIMATES, EXACT, STRATEGIES, Inviting, close, equal, network, plain, plan_for
from torch import nn

from pullback.adjoint import Checkpoint, Continuous, Direct, JacobianFree, Reversible, Truncated, sample
from pullback.solvers import DATA, DDIM, FLOW, ClassifierFree, Denoiser, RectifiedFlow, UniformT


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("strategy", [*STRATEGIES, Checkpoint(recursive=True)], ids=str)
def test_a_hook_runs_once_on_the_whole_gradient(strategy, twice, graph):
    """On a parameter, a captured leaf, an input and a captured tensor with a graph; in the second order too."""
    net, held = network(), torch.ones(3, requires_grad=True)
    x, plan, seen = torch.randn(2, 3, requires_grad=True), plan_for(strategy), []
    # a captured tensor with a graph of its own goes by regions, if at all
    graph = graph and strategy in EXACT and "Reversible" not in str(strategy)
    leaves = [next(net.parameters()), held, x]

    def run(gradient):
        grown = x.sum().exp() * torch.ones(3) if graph else held
        model = Denoiser(lambda x, t: (net(x, t) * held + grown * 1e-3).tanh(), PROCESS, DATA)
        first = torch.autograd.grad(
            sample(model, plan, x, gradient=gradient).square().sum(),
            leaves,
            create_graph=twice,
            allow_unused=True,
        )
        if not twice:
            return first
        return torch.autograd.grad(
            torch.stack([g.square().sum() for g in first if g is not None]).sum(), leaves, allow_unused=True
        )

    if twice and strategy in ESTIMATES:
        return
    bare = run(strategy)
    handles = [
        leaf.register_hook(lambda g, k=k: seen.append(k) or g.clamp(-1e-3, 1e-3))
        for k, leaf in enumerate(leaves)
    ]
    clipped = run(strategy)
    if twice:
        equal(clipped, run(plain(strategy)), 1e-9)
    else:
        assert sorted(seen) == [k for k, g in enumerate(bare) if g is not None]
        close([g for g in clipped if g is not None], [g.clamp(-1e-3, 1e-3) for g in bare if g is not None])
    for handle in handles:
        handle.remove()
    again = run(strategy)
    close([g for g in again if g is not None], [g for g in bare if g is not None])


def test_a_captured_tensor_that_keeps_its_gradient():
    """`retain_grad` on a guidance scale: its own gradient, not N of them."""

    def scale_grad(gradient):
        torch.manual_seed(0)
        net, raw = Inviting(), torch.zeros((), requires_grad=True)
        scale = raw.exp() * 2
        scale.retain_grad()
        model = ClassifierFree(Denoiser(net, PROCESS, DATA), scale)
        sample(
            model, plan_for(gradient), torch.ones(2, 3), cond=torch.ones(3), gradient=gradient
        ).sum().backward()
        return [scale.grad, raw.grad, net.raw.grad]

    close(scale_grad(Checkpoint())[:2], scale_grad(Direct())[:2])


class Counting(nn.Module):
    """A network that counts how often a gradient is taken at its weights."""

    def __init__(self):
        super().__init__()
        self.weight, self.count = nn.Parameter(torch.randn(3, 3)), 0

    def forward(self, x, t, cond=None):
        weight = self.weight * 1.0
        if weight.requires_grad:
            weight.register_hook(self._counted)
        return (x @ weight + (0 if cond is None else cond)).tanh()

    def _counted(self, grad):
        self.count += 1


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_only_what_is_asked_for_is_differentiated(strategy):
    """As in plain autograd: weights that require grad cost nothing where x alone is asked for."""
    net, cond = Counting(), torch.ones(3, requires_grad=True)
    inner, x = torch.randn(2, 3, requires_grad=True), torch.randn(2, 3, requires_grad=True)
    cut = "last=3" in str(strategy)

    def count(ask, act):
        net.count = 0
        x1 = x * inner  # not a leaf
        out = sample(Denoiser(net, PROCESS, DATA), plan_for(strategy), x1, cond=cond, gradient=strategy)
        act(out.square().sum(), {"x1": x1, "x": x, "cond": cond, "weight": net.weight}[ask])
        return net.count

    asked = [lambda loss, at: torch.autograd.grad(loss, at), lambda loss, at: loss.backward(inputs=[at])]
    for act in asked:
        for ask in ["cond"] if cut else ["x1", "x", "cond"]:
            assert count(ask, act) == 0
        assert count("weight", act) > 0
    assert count("weight", lambda loss, at: loss.backward()) > 0


@pytest.mark.parametrize("strategy", [Checkpoint(), Reversible(), Continuous()], ids=str)
def test_several_cotangents_at_once_are_refused_by_name(strategy):
    net, x = network(), torch.ones(2, 3, requires_grad=True)

    def run(x, gradient=strategy):
        return sample(Denoiser(net, PROCESS, DATA), plan_for(strategy), x, gradient=gradient)

    with pytest.raises(RuntimeError, match="many cotangents at once.*Direct"):
        torch.autograd.grad(run(x).sum(0), x, torch.eye(3), is_grads_batched=True)
    with pytest.raises(RuntimeError, match="many cotangents at once"):
        torch.autograd.functional.jacobian(run, x, vectorize=True)
    one_by_one = torch.autograd.functional.jacobian(run, x)
    if strategy in EXACT:
        close([one_by_one], [torch.autograd.functional.jacobian(lambda x: run(x, Direct()), x)])


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_the_sample_is_the_callers_to_write_to(strategy):
    """In place, under every strategy, in float64 too; plain autograd allows it."""

    def grads(gradient, act):
        torch.manual_seed(0)
        net, x = network(), torch.randn(2, 3, requires_grad=True)
        out = sample(Denoiser(net, PROCESS, DATA), plan_for(strategy), x, gradient=gradient)
        return torch.autograd.grad(act(out).square().sum(), list(net.parameters()))

    close(
        grads(strategy, lambda out: out.clamp_(-0.1, 0.1)), grads(strategy, lambda out: out.clamp(-0.1, 0.1))
    )


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_an_empty_batch(strategy):
    net, x = network(), torch.zeros(0, 3, requires_grad=True)
    out = sample(Denoiser(net, PROCESS, DATA), plan_for(strategy), x, gradient=strategy)
    out.square().sum().backward()
    assert out.shape == (0, 3) and all(p.grad is not None and not p.grad.any() for p in net.parameters())


def test_a_budget_is_kept_or_refused():
    grown, plan = torch.ones(3, requires_grad=True).exp(), plan_for(Checkpoint())
    for choice in (Checkpoint(memory_budget=10**6), Checkpoint(recursive=True)):
        with pytest.raises(ValueError, match="graph of its own.*memory budget"):
            sample(
                Denoiser(lambda x, t: x * grown, PROCESS, DATA), plan, torch.ones(2, 3),
                gradient=choice,
            )  # fmt: skip


def test_what_gets_no_gradient_is_said():
    net, x, cond = Inviting(), torch.randn(2, 3, requires_grad=True), torch.ones(3, requires_grad=True)
    model, plan = Denoiser(net, PROCESS, DATA), plan_for(Checkpoint())
    with pytest.warns(
        UserWarning, match=r"Truncated.last=2.*got x requiring grad.*last 2 of 4 steps.*stays None"
    ):
        sample(model, plan, x, gradient=Truncated(2)).sum().backward()
    assert x.grad is None
    with pytest.warns(
        UserWarning, match=r"JacobianFree.*got cond\[0\], parameter .* and \d+ more requiring grad"
    ):
        sample(model, plan, x, cond=cond, gradient=JacobianFree()).sum().backward()
    assert x.grad is not None and cond.grad is None
    head, tail = plan.split(2)
    state = {name: torch.randn(2, 3, requires_grad=True) for name in tail.entry}
    assert len(state) > 1
    for strategy in (s for s in STRATEGIES if s in ESTIMATES):
        with pytest.raises(ValueError, match="got register 'D.' that requires grad, expected x alone"):
            sample(model, tail, state, gradient=strategy)


def test_a_held_prediction_that_says_nothing_is_named():
    plan = DDIM().plan(RectifiedFlow(), UniformT(4, start=1.0, end=0.1))
    model = Denoiser(network(), RectifiedFlow(), FLOW)
    with pytest.raises(ValueError, match="JacobianFree.*got held=NOISE .*hold another .DATA and V"):
        sample(model, plan, torch.ones(2, 3, requires_grad=True), gradient=JacobianFree())
