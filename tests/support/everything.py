"""One run with every kind of input, and its gradients at all of them: what strategies and methods are compared on."""

from functools import lru_cache

import torch
from problems import PROCESS
from torch import nn

from pullback.adjoint import Direct, PerStep, sample
from pullback.solvers import Denoiser, Karras, V

GRID = Karras(6, end=0.02)


class Network(nn.Module):
    """A small net with parameters, dropout, nested conditioning and a captured tensor that has a graph of its own."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 16), nn.SiLU(), nn.Dropout(dropout), nn.Linear(16, 3))
        self.frozen = nn.Linear(3, 3).requires_grad_(False)
        self.captured = torch.randn(3, requires_grad=True)

    def forward(self, x, t, cond):
        out = self.body(torch.cat([x, t[:, None]], 1)) + cond["scale"] * self.captured.exp()
        return self.frozen(torch.tanh(out)) + cond["shifts"][0] * x


@lru_cache(maxsize=4)
def planned(method):
    """The plan of several runs on end, compiled once."""
    return method.plan(PROCESS, GRID)


def everything(method, gradient, dropout=0.0, order=1, device="cpu"):
    """The sample and gradients for x, conditioning (per step, nested), noise, controls, parameters, a captured leaf.

    The numbers are drawn on the CPU, whatever the device.
    """
    torch.manual_seed(0)
    network = Network(dropout)
    plan = planned(method)
    x, scale, shift = torch.randn(5, 3), torch.randn(6, 5, 3), torch.randn(3)
    noise, controls = torch.randn(max(plan.slots, 1), 5, 3), torch.randn(6, 5, 3)
    network.to(device)
    network.captured, x, scale, shift, noise, controls = (
        v.detach().to(device).requires_grad_(v.requires_grad)
        for v in (network.captured, x, scale, shift, noise, controls)
    )
    inputs = [v.requires_grad_() for v in (x, scale, shift, controls, *([noise] if plan.slots else []))]
    inputs += [p for p in network.parameters() if p.requires_grad] + [network.captured]
    out = sample(
        Denoiser(network, PROCESS, V),
        plan,
        x,
        cond={"scale": PerStep(scale), "shifts": (shift,)},
        noise=noise if plan.slots else None,
        controls=controls,
        gradient=gradient,
    )
    grads = torch.autograd.grad(out.square().sum(), inputs, create_graph=order == 2)
    if order == 2:
        grads += torch.autograd.grad(torch.stack([g.square().sum() for g in grads]).sum(), inputs)
    return [out, *grads]


@lru_cache(maxsize=4)
def by_autograd(method, dropout=0.0, order=1, device="cpu"):
    """What `everything` is with Direct, without its graph: computed once for all strategies that must equal it."""
    return tuple(value.detach() for value in everything(method, Direct(), dropout, order, device))


def assert_same(left, right, tolerance=1e-12):
    for a, b in zip(left, right, strict=True):
        assert torch.allclose(a, b, rtol=tolerance, atol=tolerance * float(b.detach().abs().max()))
