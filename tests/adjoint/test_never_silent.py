"""A gradient is right, or an error says what to change: every strategy against everything that can come between."""

import functools

import pytest
import torch
from problems import PROCESS
from strategies import EXACT, REPLAYING, STRATEGIES, Conditioned, Lora, close, network, plain, plan_for, start
from torch import nn

from pullback.adjoint import sample
from pullback.solvers import DATA, Denoiser


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
    for change, words in (
        (lambda cond, x, controls: cond["scale"].add_(1), r"cond\[\d\]"),
        (lambda cond, x, controls: cond["label"].fill_(0), r"cond\[\d\]"),
        (lambda cond, x, controls: controls.add_(1), "controls"),
    ):
        out, _, _, cond, rest = start(strategy)
        with torch.no_grad():
            change(cond, *rest)
        with pytest.raises(RuntimeError, match=words):
            out.sum().backward()


@pytest.mark.parametrize("strategy", REPLAYING, ids=str)
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
        out = sample(
            Denoiser(lambda x, t, body=body, scale=scale: body(x, t) * scale, PROCESS, DATA),
            plan,
            torch.ones(2, 3),
            gradient=strategy,
        )
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
def test_one_network_in_two_denoisers_and_two_networks_in_one(strategy):
    """Shared parameters get one gradient; equal names in two networks hide neither."""

    class Pair(Denoiser):
        def __init__(self, left, right):
            super().__init__(left, PROCESS, DATA)
            self.right = right

        def __call__(self, x, t, cond=None):
            return 1.5 * super().__call__(x, t) - 0.5 * self.right(x, t)

        def parameters(self):
            yield from (*super().parameters(), *self.right.parameters())

        def networks(self):
            yield from (*super().networks(), self.right)

    nets, x = [network(Lora()), network(Lora())], torch.ones(2, 3)

    def grads(gradient, *models):
        outs = [sample(m, plan_for(strategy), x.clone().requires_grad_(), gradient=gradient) for m in models]
        wanted = [p for net in nets for p in net.parameters() if p.requires_grad]
        return torch.autograd.grad(torch.stack([out.square().sum() for out in outs]).sum(), wanted)

    pair, alone = Pair(*nets), Denoiser(nets[1], PROCESS, DATA)
    if strategy in EXACT:
        close(grads(strategy, pair, alone), grads(plain(strategy), pair, alone))
    for net in nets if strategy in REPLAYING else ():
        out = sample(pair, plan_for(strategy), x.clone().requires_grad_(), gradient=strategy)
        net.eval()
        with pytest.raises(RuntimeError, match="had training="):
            out.sum().backward()
        net.train()
