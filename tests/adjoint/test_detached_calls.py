"""A network that detaches in some of its calls, its values the same: right, or an error by name."""

import random
import re
import warnings

import pytest
import torch
from problems import PROCESS
from strategies import EXACT, STRATEGIES, close, equal, network, plain, plan_for
from torch import nn

from pullback.adjoint import Checkpoint, JacobianFree, sample
from pullback.solvers import DATA, Denoiser

REPLAYING = [
    s for s in (*EXACT, Checkpoint(recursive=True), Checkpoint(memory_budget=10**6)) if "Direct" not in str(s)
]
TAPES = [s for s in REPLAYING if "REGION" not in str(s)]


def run(net, strategy, x=None, plan=None, **others):
    x = torch.ones(2, 3).requires_grad_() if x is None else x
    return sample(Denoiser(net, PROCESS, DATA), plan or plan_for(strategy), x, gradient=strategy, **others)


class Gated(nn.Module):
    """A network with another gradient in some of its calls, and the same value."""

    def __init__(self, way):
        super().__init__()
        self.net, self.way, self.calls, self.stop = network(), way, 0, False
        self.dice = random.Random(1)

    def forward(self, x, t):
        self.calls += 1
        early = self.calls <= 2
        if self.way == "no grad":
            with torch.set_grad_enabled(torch.is_grad_enabled() and not early):
                return self.net(x, t)
        if self.way == "no state":
            return self.net(x.detach() if early else x, t)
        if self.way == "half":
            out = self.net(x, t)
            return 0.5 * (out.detach() if early else out) + 0.5 * out
        last = self.net.inner[2]  # type: ignore
        hidden = self.net.inner[1](self.net.inner[0](torch.cat([x, t[:, None]], 1)))  # type: ignore
        return nn.functional.linear(hidden, last.weight.detach() if early else last.weight, last.bias)


DICE = random.Random(0)  # of our own: whoever checks types while we look draws from the global one


class ByDice(nn.Module):
    """As Gated, by Python's random numbers, of which nothing is held."""

    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, x, t):
        out = self.net(x, t)
        return 0.5 * (out.detach() if DICE.random() < 0.5 else out) + 0.5 * out


def gated_grads(net, strategy, plan=None):
    DICE.seed(3)
    x = torch.ones(2, 3).requires_grad_()
    out = run(net, strategy, x, plan or plan_for(strategy)).square().sum()
    return torch.autograd.grad(out, [x, *net.parameters()], allow_unused=True)


@pytest.mark.parametrize("way", ["no grad", "no state", "half", "no weight", "dice"])
@pytest.mark.parametrize("strategy", REPLAYING, ids=str)
def test_a_call_that_is_differentiated_less_by_a_counter(strategy, way):
    """The value is the same in the replay, the gradient another: right, or named."""

    def grads(gradient):
        torch.manual_seed(0)
        return gated_grads(ByDice() if way == "dice" else Gated(way), gradient, plan_for(strategy))

    try:
        got = grads(strategy)
    except RuntimeError as error:
        assert re.search(r"the network detaches, or turns grad off|took another path", str(error))  # noqa: PT017
    else:
        equal(got, grads(plain(strategy)), 1e-11)


@pytest.mark.parametrize("way", ["no grad", "no state", "half"])
@pytest.mark.parametrize("strategy", REPLAYING, ids=str)
def test_a_stretch_without_gradient_that_goes_by_time(strategy, way):
    class ByTime(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, x, t):
            early = float(t[0]) > 0.5
            if way == "no grad":
                with torch.set_grad_enabled(torch.is_grad_enabled() and not early):
                    return self.net(x, t)
            out = self.net(x.detach() if early and way == "no state" else x, t)
            return 0.5 * (out.detach() if early and way == "half" else out) + 0.5 * out

    def grads(gradient):
        torch.manual_seed(0)
        return gated_grads(ByTime(), gradient, plan_for(strategy))

    equal(grads(strategy), grads(plain(strategy)), 1e-11)


@pytest.mark.parametrize("where", ["attribute", "dict"])
@pytest.mark.parametrize("strategy", TAPES, ids=str)
def test_a_flag_set_between_the_passes_that_cuts_the_gradient_off(strategy, where):
    gate = {"stop": False}

    class Flagged(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.stop = network(), False

        def forward(self, x, t):
            stop = self.stop if where == "attribute" else gate["stop"]
            return self.net(x.detach() if stop else x, t)

    net = Flagged()
    out = run(net, strategy)
    net.stop = gate["stop"] = True
    with pytest.raises(RuntimeError, match="the network detaches, or turns grad off"):
        out.square().sum().backward()


@pytest.mark.parametrize("strategy", TAPES, ids=str)
def test_a_dict_that_a_callback_writes_and_the_network_reads(strategy):
    gate = {"step": 0}

    class Read(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, x, t):
            return self.net(x if gate["step"] > 1 else x.detach(), t)

    with pytest.raises(RuntimeError, match="the network detaches, or turns grad off"):
        run(Read(), strategy, callback=lambda k, t, x: gate.update(step=k)).square().sum().backward()


@pytest.mark.parametrize("strategy", [s for s in TAPES if "last=3" not in str(s)], ids=str)
def test_a_network_that_returns_its_state(strategy):
    """No graph of its own at all."""
    x = torch.ones(2, 3).requires_grad_()
    close(
        *(  # type: ignore
            torch.autograd.grad(run(lambda x, t: x, s, x, plan_for(strategy)).square().sum(), x)
            for s in (strategy, plain(strategy))
        )
    )


WITHOUT = "got a prediction without a graph from a state that requires grad.*no_grad"


@pytest.mark.parametrize("how", ["no_grad", "inference_mode", "detach", "numpy"])
@pytest.mark.parametrize("strategy", [s for s in STRATEGIES if "JacobianFree" not in str(s)], ids=str)
def test_a_network_without_a_graph_is_warned_of(strategy, how):
    """The commonest fault of a network of one's own: the gradient is that of constant predictions, 0.6 of the way."""
    net = network()

    def graphless(x, t):
        if how == "numpy":
            return torch.from_numpy(net(x, t).detach().numpy())
        if how == "detach":
            return net(x, t).detach()
        with torch.inference_mode() if how == "inference_mode" else torch.no_grad():
            out = net(x, t)
        return out.clone()

    x = torch.ones(2, 3).requires_grad_()
    with pytest.warns(UserWarning, match=WITHOUT):
        run(graphless, strategy, x).square().sum().backward()


def test_what_is_meant_is_not_warned_of():
    """Predictions held constant on purpose, and runs of which no gradient is asked."""
    net = network()
    graphless = torch.no_grad()(lambda x, t: net(x, t))
    x, plan = torch.ones(2, 3).requires_grad_(), plan_for(Checkpoint())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(net, Checkpoint(), x, plan).sum().backward()
        run(graphless, None, x.detach(), plan)
        with torch.no_grad():
            run(graphless, None, x, plan)
        net.requires_grad_(False)
        run(graphless, JacobianFree(), x, plan).sum().backward()
