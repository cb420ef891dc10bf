"""Auto on networks that keep what their first call computes: measuring leaves nothing behind."""

from typing import Any

import pytest
import torch
from everything import assert_same
from problems import PROCESS
from torch import nn

from pullback.adjoint import Auto, Direct, plan_gradient, sample
from pullback.solvers import DATA, DDIM, Denoiser, UniformLambda


class Memo(nn.Module):
    """Keeps a product of weights in an attribute, a dict or a list, or in one that it does not have yet."""

    def __init__(self, kind):
        super().__init__()
        torch.manual_seed(0)
        self.kind, self.count = kind, 0
        self.e, self.n = nn.Embedding(3, 3), nn.Linear(3, 3)
        self.kept: Any = {"none": None, "dict": {}, "list": [], "new": None}[kind]
        if kind == "new":
            del self.kept

    def product(self):
        if self.kind in ("dict", "list"):
            if not self.kept:
                found = self.e.weight @ self.e.weight
                self.kept.update(c=found) if self.kind == "dict" else self.kept.append(found)
            return self.kept["c"] if self.kind == "dict" else self.kept[0]
        if getattr(self, "kept", None) is None:
            self.kept = self.e.weight @ self.e.weight
        return self.kept

    def forward(self, x, t):
        self.count += 1
        return self.n(x) + 0.3 * x @ self.product()


PLAN = DDIM().plan(PROCESS, UniformLambda(4, 1.0, 0.05))


def gradients(net, gradient):
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(1))
    sample(Denoiser(net, PROCESS, DATA), PLAN, x, gradient=gradient).square().sum().backward()
    return [p.grad for p in net.parameters()]


@pytest.mark.parametrize("kind", ["none", "dict", "list", "new"])
def test_a_memo_that_measuring_fills_is_put_back(kind):
    exact = gradients(Memo(kind), Direct())
    assert all(grad is not None and grad.norm() > 0 for grad in exact)
    for limited in (Auto(memory=10**9), Auto(deadline=1e3), Auto(calls=2 * PLAN.nfe)):
        net = Memo(kind)
        assert_same(gradients(net, limited), exact)
    net = Memo(kind)
    plan_gradient(Denoiser(net, PROCESS, DATA), PLAN, torch.randn(2, 3), memory=10**9)
    assert net.count > 0 and not getattr(net, "kept", None)
    assert_same(gradients(net, Direct()), exact)


def test_what_was_kept_before_stays():
    net = Memo("none")
    net.kept = mine = torch.eye(3)
    plan_gradient(Denoiser(net, PROCESS, DATA), PLAN, torch.randn(2, 3), memory=10**9)
    assert net.kept is mine
