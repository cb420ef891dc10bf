"""A gradient is right, or an error says what to change: every strategy against everything that can come between."""

import functools

import pytest
import torch
from problems import PROCESS
from pullback.adjoint import AdjointDEIS, Auto, Continuous, Direct, sample
from pullback.solvers import DATA, Denoiser
from strategies import ESTIMATES, EXACT, REPLAYING, STRATEGIES, network, plain, plan_for
from torch import nn


def close(left, right, tolerance=1e-11):
    for a, b in zip(left, right, strict=True):
        assert a is b is None or torch.allclose(a, b, rtol=tolerance, atol=tolerance * float(b.detach().abs().max()))


class Lora(nn.Module):
    """A linear layer with an adapter, its flags named as peft names them."""

    def __init__(self):
        super().__init__()
        self.base, self.down, self.up = nn.Linear(8, 8).requires_grad_(False), nn.Linear(8, 2), nn.Linear(2, 8)
        self._active_adapter, self._disable_adapters, self.merged_adapters, self.scaling = ["style"], False, [], {"style": 0.5}
        self.register_buffer("shift", torch.randn(8))

    def forward(self, x):
        out = self.base(x) + self.shift
        return out if self._disable_adapters else out + self.scaling[self._active_adapter[0]] * self.up(self.down(x))


class Conditioned(nn.Module):
    """Any conditioning: a tensor by name, class labels, an attribute that no record can know of."""

    def __init__(self):
        super().__init__()
        self.net, self.table, self.gain = network(Lora(), nn.Dropout(0.0)), nn.Embedding(5, 3), 1.0

    def forward(self, x, t, cond):
        return self.gain * self.net(x, t) * cond["scale"] + self.table(cond["label"])


def start(strategy, net=None, hidden=False, plan=None, **cond):
    """A run on a network with conditioning: (sample, network, what wants a gradient, conditioning, the rest)."""
    torch.manual_seed(0)
    net = net or Conditioned()
    x, controls = torch.randn(2, 3).requires_grad_(), torch.randn(4, 2, 3).requires_grad_()
    cond = cond or {"scale": torch.randn(3, requires_grad=True), "label": torch.tensor([1, 4])}
    called = (lambda x, t, cond: net(x, t, cond)) if hidden else net
    out = sample(Denoiser(called, PROCESS, DATA), plan or plan_for(strategy), x, cond=cond, controls=controls, gradient=strategy)
    return out, net, [cond["scale"], controls, *(p for p in net.parameters() if p.requires_grad)], cond, (x, controls)


def lora(net):
    return net.net.inner[2]


def replace_weight(net):
    lora(net).base.weight = nn.Parameter(torch.randn(8, 8), requires_grad=False)


def swap_data(net):
    lora(net).up.weight.data = torch.randn(8, 2)


def replace_buffer(net):
    lora(net).shift = lora(net).shift + 1


CHANGES = {
    "weight": (lambda net: lora(net).up.weight.add_(1), r"up\.weight.*changed in place"),
    "frozen": (lambda net: lora(net).base.weight.add_(1), r"base\.weight.*changed in place"),
    "replaced": (replace_weight, r"base\.weight.*replaced"),
    "swapped": (swap_data, r"up\.weight.*replaced"),
    "buffer": (lambda net: lora(net).shift.add_(1), "buffer .*shift .*was changed"),
    "new buffer": (replace_buffer, "buffer .*shift .*was changed"),
    "mode": (lambda net: net.net.inner[3].eval(), "inner.3' had"),
    "active": (lambda net: lora(net)._active_adapter.append("other"), "inner.2' had"),
    "disabled": (lambda net: setattr(lora(net), "_disable_adapters", True), "inner.2' had"),
    "merged": (lambda net: lora(net).merged_adapters.append("style"), "inner.2' had"),
    "scaling": (lambda net: lora(net).scaling.update(style=0.7), "inner.2' had"),
}


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("strategy", REPLAYING, ids=str)
def test_what_changes_in_the_network_is_named(strategy, change, hidden):
    """Also behind a bare callable; peft's adapters by their flags."""
    out, net, *_ = start(strategy, hidden=hidden)
    act, words = CHANGES[change]
    with torch.no_grad():
        act(net)
    with pytest.raises(RuntimeError, match=words):
        out.sum().backward()


@pytest.mark.parametrize("strategy", REPLAYING, ids=str)
def test_what_changes_among_the_inputs_is_named(strategy):
    for change, words in ((lambda cond, x, controls: cond["scale"].add_(1), r"cond\[\d\]"),
                          (lambda cond, x, controls: cond["label"].fill_(0), r"cond\[\d\]"),
                          (lambda cond, x, controls: controls.add_(1), "controls")):
        out, _, _, cond, rest = start(strategy)
        with torch.no_grad():
            change(cond, *rest)
        with pytest.raises(RuntimeError, match=words):
            out.sum().backward()


@pytest.mark.parametrize("strategy", [s for s in REPLAYING if s in EXACT], ids=str)
def test_what_no_record_knows_is_seen_in_the_output(strategy):
    """Python state, captured constants, a generator of the network's own: the replay gives another output."""
    out, net, *_ = start(strategy)
    net.gain = 2.0
    with pytest.raises(RuntimeError, match="gave another output|reconstructed state"):
        out.sum().backward()
    own, mask = torch.Generator().manual_seed(0), torch.ones(3)
    for body in (lambda x, t: x * torch.rand(3, generator=own), lambda x, t: torch.tanh(x * mask)):
        scale = torch.ones(3, requires_grad=True)
        plan = plan_for(strategy)
        out = sample(Denoiser(lambda x, t, body=body, scale=scale: body(x, t) * scale, PROCESS, DATA), plan, torch.ones(2, 3),
                     gradient=strategy)
        mask.div_(2)
        with pytest.raises(RuntimeError, match="gave another output|reconstructed state"):
            out.sum().backward()


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_conditioning_may_be_reused_after_the_run(strategy):
    """A dict filled anew for the next batch is the caller's own."""
    out, _, wanted, cond, _ = start(strategy)
    want = torch.autograd.grad(out.sum(), wanted)
    out, _, wanted, cond, _ = start(strategy)
    cond["scale"], cond["label"] = torch.zeros(3, requires_grad=True), torch.tensor([0, 0])
    close(torch.autograd.grad(out.sum(), wanted), want)


@pytest.mark.parametrize("strategy", EXACT, ids=str)
def test_frozen_parameters_adapters_and_a_second_backward(strategy):
    """Against plain autograd: adapters get gradients, frozen weights none; asked twice it says the same."""
    out, net, wanted, *_ = start(strategy)
    got = torch.autograd.grad(out.square().sum(), wanted, retain_graph=True)
    close(torch.autograd.grad(out.square().sum(), wanted), got)
    assert lora(net).base.weight not in set(wanted)
    out, _, wanted, *_ = start(plain(strategy), plan=plan_for(strategy))
    close(got, torch.autograd.grad(out.square().sum(), wanted))


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_two_runs_of_one_network_before_one_backward(strategy):
    net = Conditioned()
    cond = {"scale": torch.randn(3, requires_grad=True), "label": torch.tensor([1, 4])}
    run = functools.partial(start, strategy, net, **cond)
    wanted = [cond["scale"], *(p for p in net.parameters() if p.requires_grad)]
    both = torch.autograd.grad(run()[0].sum() + run(hidden=True)[0].square().sum(), wanted)
    apart = [torch.autograd.grad(loss, wanted) for loss in (run()[0].sum(), run()[0].square().sum())]
    close(both, [a + b for a, b in zip(*apart, strict=True)])


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_a_captured_tensor_is_as_good_as_a_declared_one(strategy):
    """A leaf, one with a graph of its own, and one behind a module: its gradient as in cond, or an error that says so."""
    def run(body, net, **cond):
        x = torch.ones(2, 3, requires_grad=True)
        out = sample(Denoiser(body, PROCESS, DATA), plan_for(strategy), x, gradient=strategy, **cond)
        return torch.autograd.grad(out.square().sum(), [*net.parameters(), root])

    net, root = network(), torch.randn(3, requires_grad=True)
    grown = root.exp()
    held = network()
    held.held, held.forward = root, lambda x, t: net(x, t) * held.held.exp()
    want = run(lambda x, t, cond: net(x, t) * cond, net, cond=grown)
    close(run(lambda x, t: net(x, t) * root.exp(), net), want)
    close(run(held, net), want)
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
    x, calls = torch.ones(2, 3, requires_grad=not lonely), [op.t for op in plan.instructions if hasattr(op, "t")]

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
def test_random_numbers_and_written_buffers(strategy):
    """Dropout is replayed bit for bit or refused; batch normalisation in train mode too."""
    def grads(gradient, *middle):
        torch.manual_seed(0)
        net, x = network(*middle), torch.ones(2, 3, requires_grad=True)
        torch.manual_seed(1)
        out = sample(Denoiser(net, PROCESS, DATA), plan_for(strategy), x, gradient=gradient)
        torch.rand(7)  # what is drawn in between is no matter
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
def test_autocast_is_restored(strategy):
    """Every call of the network in the backward pass sees the precision of the forward pass."""
    seen = []

    class Seeing(nn.Linear):
        def forward(self, x):
            out = super().forward(x)
            seen.append(out.dtype)
            return out

    net, x = network(Seeing(8, 8)).float(), torch.ones(2, 3, dtype=torch.float32, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
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
        return torch.autograd.grad(sum(g.square().sum() for g in first), wanted)

    if strategy in ESTIMATES:
        with pytest.raises(RuntimeError, match="cannot be differentiated once more"):
            second(strategy)
    else:
        close(second(strategy), second(plain(strategy)), 1e-9)
