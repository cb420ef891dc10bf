"""A replay is compared with its call over the whole output, as sharply as the precision at work allows."""

import numpy as np
import pytest
import torch
from problems import PROCESS
from strategies import plan_for
from torch import nn

from pullback.adjoint import Checkpoint, Continuous, Mechanism, Reversible, sample
from pullback.adjoint.replay.fingerprint import HALF, TOLERANCE, Projection, drift, tolerance
from pullback.solvers import DATA, Denoiser

REPLAYING = [
    Checkpoint(), Checkpoint(mechanism=Mechanism.REGION), Checkpoint(recursive=True), Checkpoint(offload=True),
]  # fmt: skip
OTHERS = [Reversible(), Continuous()]
DTYPES = [torch.float32, torch.float64]


def image_network(dtype, width=16):
    """A convolutional network of (B, 4, 8, 8)."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(4, width, 3, padding=1), nn.GroupNorm(4, width), nn.SiLU(), nn.Conv2d(width, 4, 3, padding=1)
    ).to(dtype)  # fmt: skip


def run(body, strategy, dtype, shape=(2, 4, 8, 8)):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()
    return sample(Denoiser(body, PROCESS, DATA), plan_for(strategy), x, gradient=strategy)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("strategy", [*REPLAYING, *OTHERS], ids=str)
def test_a_gain_that_changed_a_little(strategy, dtype):
    """By 4 %, and by 0.1 %."""
    net = image_network(dtype)
    for before, after in ((1.0, 1.04), (1.0, 1.001)):
        gain = [before]
        out = run(lambda x, t, gain=gain: gain[0] * net(x), strategy, dtype)
        gain[0] = after
        if after < 1.01 and strategy == Reversible():
            continue  # which has a tolerance of its own, on the state
        with pytest.raises(RuntimeError, match="gave another output|reconstructed state"):
            out.square().sum().backward()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("strategy", REPLAYING, ids=str)
def test_randomness_that_no_state_of_torch_replays(strategy, dtype, seed):
    """numpy's dropout of a few entries, and its shift of the picture, which changes neither sum nor norm."""
    net, rng = image_network(dtype), np.random.default_rng(seed)
    for noisy in (
        lambda x: x * torch.as_tensor(rng.random((8, 8)) > 0.02, dtype=dtype),
        lambda x: x.roll(int(rng.integers(1, 8)), -1) if rng.random() < 0.5 else x,
    ):
        out = run(lambda x, t, noisy=noisy: noisy(net(x)), strategy, dtype)
        with pytest.raises(RuntimeError, match="gave another output|had a graph of"):
            out.square().sum().backward()


@pytest.mark.parametrize("place", [(0, 0, 0), (1, 3, 5), (3, 7, 7), (2, 4, 1)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("strategy", [*REPLAYING, Continuous()], ids=str)
def test_one_pixel_of_a_mask(strategy, dtype, place):
    net, mask = image_network(dtype), torch.ones(4, 8, 8, dtype=dtype)
    out = run(lambda x, t: net(x) * mask, strategy, dtype)
    mask[place] = 0.0  # captured and not requiring grad: nobody watches its version
    with pytest.raises(RuntimeError, match="gave another output"):
        out.square().sum().backward()


class Half(nn.Module):
    """A network in half precision that is given float32."""

    def __init__(self, dtype):
        super().__init__()
        self.net, self.dtype = image_network(dtype), dtype

    def forward(self, x, t):
        return self.net(x.to(self.dtype)).to(x.dtype)


def reordered(body, order):
    """The same network, its last reduction in another order from call to call, as atomic adds have it."""

    def forward(x, t):
        order.append(len(order))
        last, inner = body[-1], body[:-1](x)
        turn = torch.randperm(inner.shape[1], generator=torch.Generator().manual_seed(len(order)))
        return nn.functional.conv2d(inner[:, turn], last.weight[:, turn], last.bias, padding=1)

    return forward


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_kernels_that_add_in_another_order_are_no_change(dtype):
    """What rounding does stays a factor of five below what is allowed, and the run goes through."""
    state = torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype
    body = image_network(dtype, width=64)
    forward, worst = reordered(body, []), 0.0
    for seed in range(20):
        x = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(seed)).to(dtype)
        project = Projection(x.to(state))
        then, now = (project(forward(x, None).to(state)) for _ in range(2))
        worst = max(worst, float(drift(then, now, tolerance([*body.parameters()], []))))
    print(dtype, f"{worst:.2g} of what is allowed")
    assert worst < 0.2
    cast = lambda x, t: forward(x.to(dtype), t).to(x.dtype)  # noqa: E731

    class Model(Denoiser):
        def parameters(self):
            yield from body.parameters()

    for strategy in REPLAYING:
        x = torch.randn(1, 4, 8, 8, dtype=state, requires_grad=True)
        sample(Model(cast, PROCESS, DATA), plan_for(strategy), x, gradient=strategy).square().sum().backward()
        assert x.grad is not None


@pytest.mark.parametrize("strategy", [*REPLAYING, *OTHERS], ids=str)
def test_no_false_alarm(strategy):
    """bfloat16 and float16 under float32, autocast, channels last."""
    for dtype in (torch.bfloat16, torch.float16):
        run(Half(dtype), strategy, torch.float32).square().sum().backward()
    net = image_network(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = run(lambda x, t: net(x).float(), strategy, torch.float32)
    out.square().sum().backward()
    last = image_network(torch.float32).to(memory_format=torch.channels_last)  # type: ignore
    run(
        lambda x, t: last(x.contiguous(memory_format=torch.channels_last)), strategy, torch.float32
    ).sum().backward()
    zero = image_network(torch.float32)
    nn.init.zeros_(zero[-1].weight)  # type: ignore
    nn.init.zeros_(zero[-1].bias)  # type: ignore
    run(lambda x, t: zero(x), strategy, torch.float32).sum().backward()


def test_a_second_derivative_compares_too():
    net = image_network(torch.float32)
    for strategy in REPLAYING:
        gain = [1.0]
        out = run(lambda x, t, gain=gain: gain[0] * net(x), strategy, torch.float32)
        gain[0] = 1.004
        with pytest.raises(RuntimeError, match="gave another output"):
            torch.autograd.grad(out.square().sum(), list(net.parameters()), create_graph=True)


def test_tolerances_follow_the_coarsest_precision():
    single, double = torch.ones(1, dtype=torch.float32), torch.ones(1, dtype=torch.float64)
    assert tolerance([double], []) == TOLERANCE[torch.float64] < tolerance([double, single], [])
    assert tolerance([single], [(False, torch.bfloat16)]) == TOLERANCE[torch.float32]
    assert tolerance([single], [(True, torch.bfloat16)]) == HALF
    assert tolerance([single, torch.ones(1).long(), single.half()], []) == TOLERANCE[torch.float16]


def test_marks_are_the_same_everywhere():
    """The weights are drawn from a generator of their own; nothing of torch's is touched."""
    state = torch.get_rng_state()
    x = torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Projection(x)(x), Projection(x[:1])(x))
    assert torch.equal(torch.get_rng_state(), state) and Projection(x)(x).shape == (3, 2)
