"""Products with a run's Jacobian where a way leads round the stand-ins, or something stays of a call: refused."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from problems import PROCESS
from strategies import network
from torch import nn
from torch.nn.functional import linear

from pullback.adjoint import DoubleBackward, ForwardMode, linearised, pushforward
from pullback.solvers import DATA, DDIM, Denoiser, UniformT

PLAN = DDIM().plan(PROCESS, UniformT(3, start=0.9, end=0.05))
WAYS = [ForwardMode(), DoubleBackward()]


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.l = nn.Linear(2, 2)
        self.also = [self.l.weight]

    def forward(self, x, t):
        return torch.tanh(linear(x, self.also[0]) + self.l(x))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.LSTM(2, 2)

    def forward(self, x, t):
        return self.body(x[None])[0][0]


class Memo(nn.Module):
    def __init__(self):
        super().__init__()
        self.e, self.c = nn.Linear(2, 2), None

    def forward(self, x, t, cond):
        if self.c is None:
            self.c = self.e(cond)
        return torch.tanh(x + self.c)


class Tells(nn.Module):
    """Lets a feature out, which is another at each call."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(2, 2)

    def forward(self, x, t):
        self.feature = self.body(x)
        return self.feature.tanh()


@pytest.mark.parametrize("by", WAYS, ids=str)
def test_a_weight_that_is_reached_past_its_module_is_refused(by):
    layer, x = nn.Linear(2, 2), torch.randn(3, 2)
    weight = layer.weight
    closed = Denoiser(lambda x, t: torch.tanh(linear(x, weight) + layer(x)), PROCESS, DATA)
    tied = Tied()
    for model, wrt in ((closed, weight), (Denoiser(tied, PROCESS, DATA), tied.l.weight)):
        v = torch.ones(wrt.shape)
        with pytest.raises(ValueError, match=r"wrt: got .*weight.* also reaches past"):
            pushforward(model, PLAN, x, v, wrt=wrt, by=by)
        with pytest.raises(ValueError, match=r"wrt: got .*weight.* also reaches past"):
            linearised(model, PLAN, x, wrt=wrt, by=by).jvp(v)
    shift = torch.randn(2)
    model = Denoiser(lambda x, t, cond: torch.tanh(x + cond * shift), PROCESS, DATA)
    with pytest.raises(ValueError, match="also reaches past"):
        pushforward(model, PLAN, x, shift, cond=shift, wrt=shift, by=by)


def test_a_list_of_weights_that_its_module_renews_is_none():
    net, x = Recurrent(), torch.randn(3, 2)
    weight = net.body.weight_ih_l0
    v, w, model = torch.randn(8, 2), torch.randn(3, 2), Denoiser(net, PROCESS, DATA)
    map_ = linearised(model, PLAN, x, wrt=weight)
    for _ in range(2):
        assert torch.allclose((map_.jvp(v) * w).sum(), (map_.vjp(w) * v).sum(), rtol=1e-10)


@pytest.mark.parametrize("by", WAYS, ids=str)
def test_what_stays_of_a_call_is_refused(by):
    memo, cond, x = Memo(), torch.randn(2), torch.randn(3, 2)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="keeps 'c' of Memo from call to call"):
            pushforward(Denoiser(memo, PROCESS, DATA), PLAN, x, cond, cond=cond, wrt=cond, by=by)
    net = network(nn.BatchNorm1d(8)).train()
    then = {name: value.clone() for name, value in net.named_buffers()}
    with pytest.raises(RuntimeError, match="buffer .* was changed by the run"):
        pushforward(Denoiser(net, PROCESS, DATA), PLAN, torch.randn(4, 3), torch.randn(4, 3), by=by)
    assert then and all(torch.equal(value, then[name]) for name, value in net.named_buffers())
    pushforward(Denoiser(Tells(), PROCESS, DATA), PLAN, x, x, by=by)


def test_products_of_two_threads_wait_for_one_another():
    """Forward mode, and what stands in the places of weights, are the process's."""
    inside, most = list[int](), list[int]()

    def slow(x, t):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.01)
        inside.pop()
        return x.tanh()

    x, model = torch.randn(3, 2), Denoiser(slow, PROCESS, DATA)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: pushforward(model, PLAN, x, x)[1], range(4)))
    assert max(most) == 1 and all(torch.equal(each, found[0]) for each in found)
