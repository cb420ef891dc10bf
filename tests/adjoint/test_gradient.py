"""Every strategy against plain autograd, over every method and every kind of input."""

import gc

import pytest
import torch
from everything import GRID, assert_same, by_autograd, everything
from problems import MIXTURE, PROCESS, every_method, thinned
from torch import nn

from pullback.adjoint import Checkpoint, Direct, Mechanism, PerStep, Truncated, sample
from pullback.solvers import (
    DATA,
    DDIM,
    DDPM,
    EDM,
    NOISE,
    VP,
    Addressed,
    ClassifierFree,
    Denoiser,
    DPMSolverPP,
    GivenNoise,
    Karras,
    UniformLambda,
    UniformT,
)

EXACT = [
    Checkpoint(),
    Checkpoint(mechanism=Mechanism.REGION),
    Checkpoint(offload=True),
    Checkpoint(offload=True, mechanism=Mechanism.REGION),
    Truncated(6),
    Truncated(9, inner=Direct()),
]


@pytest.mark.parametrize("gradient", EXACT, ids=str)
@pytest.mark.parametrize("method", every_method(), ids=str)
def test_exact_strategies_equal_direct(method, gradient, device):
    assert_same(everything(method, gradient, device=device), by_autograd(method, device=device))


@pytest.mark.parametrize("gradient", EXACT[:4], ids=str)
def test_dropout_is_replayed_and_double_backward_is_right(gradient, device):
    assert_same(
        everything(DPMSolverPP(3), gradient, dropout=0.3, order=2, device=device),
        by_autograd(DPMSolverPP(3), dropout=0.3, order=2, device=device),
    )


@pytest.mark.parametrize("method", thinned(every_method()), ids=str)
def test_gradcheck(method):
    plan = method.plan(PROCESS, UniformLambda(3, start=0.8, end=0.1))
    model = MIXTURE.denoiser(PROCESS)
    noise = torch.randn(max(plan.slots, 1), 2, 2, requires_grad=bool(plan.slots))
    x, cond = torch.randn(2, 2, requires_grad=True), torch.randn(2, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, c, n: sample(model, plan, x, cond=c, noise=n), (x, cond, noise))


def test_truncated_is_the_gradient_of_the_last_steps():
    plan = DPMSolverPP(2).plan(PROCESS, GRID)
    cond = torch.randn(2, requires_grad=True)
    model, x = MIXTURE.denoiser(PROCESS), torch.randn(4, 2)
    steps = PerStep(cond.expand(6, 2))
    out = sample(model, plan, x, cond=steps, gradient=Truncated(2))
    (got,) = torch.autograd.grad(out.sum(), cond)
    pieces = cond.detach().expand(6, 2).clone().requires_grad_()
    (each,) = torch.autograd.grad(
        sample(model, plan, x, cond=PerStep(pieces), gradient=Direct()).sum(), pieces
    )
    # the late steps' direct effect; what they did to the state before is cut, which the last two pieces do
    # not need
    assert torch.allclose(got, each[-2:].sum(0), atol=1e-12)


def test_partial_gradients_and_a_second_backward():
    """Asking for x alone leaves some saved tensors unread; asking again replays again."""
    x = torch.randn(3, 3, requires_grad=True)
    network = nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, 3))
    model = Denoiser(lambda x, t: network(x), PROCESS, DATA)
    plan = DDIM().plan(PROCESS, GRID)
    out, plain = (sample(model, plan, x, gradient=g).square().sum() for g in (Checkpoint(), Direct()))
    for _ in range(2):
        assert_same(
            torch.autograd.grad(out, x, retain_graph=True), torch.autograd.grad(plain, x, retain_graph=True)
        )


def test_an_optimiser_step_before_backward_is_an_error():
    network = nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, 3))
    model = Denoiser(_Time(network), PROCESS, DATA)
    out = sample(model, DDIM().plan(PROCESS, GRID), torch.randn(3, 3))
    with torch.no_grad():
        next(network.parameters()).add_(1.0)
    with pytest.raises(RuntimeError, match="changed in place between forward and backward"):
        out.sum().backward()


class _Time(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x, t):
        return self.inner(x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_network_with_float32_state(dtype, device):
    network = _Time(nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, 3)).to(device, dtype))
    model = Denoiser(network, PROCESS, DATA, dtype=dtype)
    x = torch.randn(4, 3, dtype=torch.float32, device=device, requires_grad=True)
    outs = [
        sample(model, DPMSolverPP(2).plan(PROCESS, GRID), x, gradient=g) for g in (Checkpoint(), Direct())
    ]
    assert outs[0].dtype == torch.float32
    grads = [torch.autograd.grad(out.square().sum(), [x, *network.parameters()]) for out in outs]
    assert_same(grads[0], grads[1])
    assert (
        sample(model, DDIM().plan(PROCESS, GRID), x.detach().to(dtype), gradient=None).dtype == torch.float32
    )


def test_autocast_is_restored_in_the_replay(device):
    network = _Time(nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, 3)).to(device, torch.float32))
    x = torch.randn(4, 3, dtype=torch.float32, device=device, requires_grad=True)
    grads = []
    for strategy in (Checkpoint(), Direct()):
        # the cache would add a weight's gradients of all steps up in bf16; replays add them up in float32
        with torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=False):
            out = sample(Denoiser(network, PROCESS, DATA), DDIM().plan(PROCESS, GRID), x, gradient=strategy)
        grads.append(torch.autograd.grad(out.square().sum(), [x, *network.parameters()]))
    assert_same(grads[0], grads[1])


@pytest.mark.parametrize("method", every_method(), ids=str)
def test_batch_of_four_is_four_batches_of_one(method, device):
    plan, model = method.plan(PROCESS, GRID), MIXTURE.to(device).denoiser(PROCESS)
    x = torch.randn(4, 2).to(device)
    whole = sample(model, plan, x, noise=Addressed(5), gradient=None)
    for b in range(4):
        one = sample(model, plan, x[b : b + 1], noise=Addressed(5, samples=[b]), gradient=None)
        assert torch.allclose(whole[b : b + 1], one, rtol=1e-10, atol=1e-10)


def test_sampling_needs_no_strategy_and_keeps_no_graph():
    out = sample(MIXTURE.denoiser(PROCESS), DDIM().plan(PROCESS, GRID), torch.randn(2, 2))
    assert not out.requires_grad
    x = torch.randn(2, 2, requires_grad=True)
    assert not sample(MIXTURE.denoiser(PROCESS), DDIM().plan(PROCESS, GRID), x, gradient=None).requires_grad
    assert sample(MIXTURE.denoiser(PROCESS), DDIM().plan(PROCESS, GRID), x).requires_grad


def test_guidance_scale_and_callback():
    scale = torch.tensor(2.0, requires_grad=True)
    model = ClassifierFree(MIXTURE.denoiser(PROCESS), scale, null=None)
    seen, plan, x = [], DPMSolverPP(2).plan(PROCESS, GRID), torch.randn(3, 2)
    cond = torch.ones(2)
    out = sample(
        model, plan, x, cond=cond, callback=lambda k, t, state: seen.append((k, t, state.requires_grad))
    )
    assert [k for k, _, _ in seen] == list(range(7)) and [t for _, t, _ in seen] == list(plan.times)
    assert not any(tracked for _, _, tracked in seen)
    (got,) = torch.autograd.grad(out.sum(), scale)
    h = 1e-6
    plus, minus = (
        sample(ClassifierFree(MIXTURE.denoiser(PROCESS), 2.0 + d, None), plan, x, cond=cond).sum()
        for d in (h, -h)
    )
    assert float(got) == pytest.approx(float(plus - minus) / (2 * h), rel=1e-6)


PLAN = DDIM().plan(PROCESS, GRID)
GOOD = MIXTURE.denoiser(PROCESS)
X = torch.randn(2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: Denoiser(lambda x, t: x, PROCESS, "eps"), TypeError, "expected one of NOISE"),
        (lambda: DDIM().plan(PROCESS, [0.1, 0.5, 0.3]), ValueError, "strictly"),
        (lambda: DDIM().plan(PROCESS, [0.5, 0.5]), ValueError, "step 0"),
        (lambda: DDIM().plan(PROCESS, [1.5, 0.5]), ValueError, "expected inside"),
        (lambda: DDPM().plan(PROCESS, [0.1, 0.5]), ValueError, "rising grid"),
        (lambda: Karras(5).times(PROCESS), ValueError, "expected finite ends"),
        (lambda: UniformT(0), ValueError, "at least one step"),
        (
            lambda: sample(Denoiser(lambda x, t: x * float("nan"), PROCESS, DATA), PLAN, X),
            FloatingPointError,
            "step 0",
        ),
        (
            lambda: sample(
                Denoiser(lambda x, t: torch.where(t[:, None] < 0.3, x / 0, x), PROCESS, DATA), PLAN, X
            ),
            FloatingPointError,
            "step 5",
        ),
        (
            lambda: sample(Denoiser(lambda x, t: x[:, :1], PROCESS, DATA), PLAN, X),
            ValueError,
            "network output",
        ),
        (lambda: sample(GOOD, PLAN, X, gradient=Checkpoint()), ValueError, "none of which requires grad"),
        (lambda: sample(GOOD, DDPM().plan(PROCESS, GRID), X), ValueError, "expected a source with 6 slots"),
        (
            lambda: sample(GOOD, DDPM().plan(PROCESS, GRID), X, noise=torch.randn(5, 2, 2)),
            ValueError,
            r"expected \(6, 2, 2\)",
        ),
        (
            lambda: sample(GOOD, DDPM().plan(PROCESS, GRID), X, noise=Addressed(0, samples=[1])),
            ValueError,
            "1 sample ids",
        ),
        (lambda: sample(GOOD, DDIM().plan(EDM(), Karras(4, end=0.1)), X), ValueError, "compile the plan"),
        (
            lambda: sample(GOOD, DDIM().plan(PROCESS, torch.rand(3, 5).sort(0, descending=True)[0]), X),
            ValueError,
            "expected 5",
        ),
        (
            lambda: sample(Denoiser(lambda x, t: x, VP(), NOISE), DDIM().plan(PROCESS, GRID), X[0]),
            ValueError,
            "batch axis",
        ),
        (lambda: sample(GOOD, PLAN, X, cond=PerStep(torch.zeros(5, 2))), ValueError, "expected 6"),
        (lambda: sample(GOOD, PLAN, X, controls=torch.zeros(6, 2)), ValueError, "controls"),
        (
            lambda: sample(GOOD, PLAN, X.clone().requires_grad_(), gradient=Truncated(2)),
            ValueError,
            "none of which|only x",
        ),
        (lambda: Truncated(0), ValueError, "at least 1 step"),
        (lambda: DPMSolverPP(4), ValueError, "1, 2 or 3"),
        (lambda: Addressed(-1), ValueError, "2\\^128"),
        (lambda: Addressed(1, samples=[3, 3]), ValueError, "distinct"),
        (lambda: GivenNoise(torch.zeros(1, 2)).check(1, X), ValueError, "slots"),
    ],
)
def test_bad_input_says_what_to_change(call, error, words):
    with pytest.raises(error, match=words):
        call()


class _Energy(nn.Module):
    """A score that is itself a gradient: the network differentiates inside its own forward pass."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x, t):
        with torch.enable_grad():
            x = x if x.requires_grad else x.requires_grad_()
            return torch.autograd.grad(self.body(x).sum(), x, create_graph=True)[0]


@pytest.mark.parametrize("gradient", EXACT, ids=str)
def test_a_network_that_differentiates_inside(gradient):
    network = _Energy()
    x = torch.randn(4, 3, requires_grad=True)
    model, plan = Denoiser(network, PROCESS, DATA), DPMSolverPP(2).plan(PROCESS, GRID)
    outs = [sample(model, plan, x, gradient=g) for g in (gradient, Direct())]
    left, right = (
        torch.autograd.grad(out.square().sum(), [x, *network.parameters()], allow_unused=True) for out in outs
    )
    assert_same([g for g in left if g is not None], [g for g in right if g is not None])


@pytest.mark.parametrize("gradient", EXACT[:4], ids=str)
def test_nothing_outlives_the_gradient(gradient):
    """Without the garbage collector: a cycle would keep an activation for each backward pass."""

    def alive() -> int:
        return sum(type(thing) is torch.Tensor for thing in gc.get_objects())

    network, counts = _Time(nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, 3), nn.Sigmoid())), []
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            x = torch.randn(4, 3, requires_grad=True)
            out = sample(Denoiser(network, PROCESS, DATA), DDIM().plan(PROCESS, GRID), x, gradient=gradient)
            torch.autograd.grad(out.sum(), x)
            del out
            counts.append(alive())
    finally:
        gc.enable()
    assert counts[0] == counts[-1], counts


@pytest.mark.parametrize("gradient", EXACT[:4], ids=str)
def test_a_captured_tensor_with_a_graph_of_its_own(gradient):
    """Seen in the graph of the first call, and handed to regions; the watcher sees each state once."""
    root, seen = torch.randn(3, requires_grad=True), []
    captured = root.exp()
    model = Denoiser(lambda x, t: torch.tanh(x * captured), PROCESS, DATA)
    x = torch.randn(4, 3, requires_grad=True)
    plan = DPMSolverPP(2).plan(PROCESS, GRID)
    out = sample(model, plan, x, gradient=gradient, callback=lambda k, t, state: seen.append(k))
    assert seen == list(range(7))
    got = torch.autograd.grad(out.square().sum(), [x, root], retain_graph=True)
    assert_same(got, torch.autograd.grad(sample(model, plan, x, gradient=Direct()).square().sum(), [x, root]))


def test_trajectory_by_force_and_a_late_leaf_are_errors():
    captured = torch.randn(3, requires_grad=True).exp()
    model, x = Denoiser(lambda x, t: x * captured, PROCESS, DATA), torch.randn(4, 3, requires_grad=True)
    plan = DDIM().plan(PROCESS, GRID)
    with pytest.raises(ValueError, match="graph of its own"):
        sample(model, plan, x, gradient=Checkpoint(mechanism=Mechanism.TRAJECTORY))
    late = torch.randn(3, requires_grad=True)
    switching = Denoiser(lambda x, t: x * (late if t[0] < 0.3 else 1.0), PROCESS, DATA)
    with pytest.raises(RuntimeError, match="reaches a leaf of shape .3,. the first call did not"):
        sample(switching, plan, x).sum().backward()
    sample(switching, plan, x, gradient=Checkpoint(mechanism=Mechanism.REGION)).sum().backward()
    assert late.grad is not None


@pytest.mark.parametrize("mechanism", [Mechanism.TRAJECTORY, Mechanism.REGION])
def test_what_changes_before_the_backward_pass_is_named(mechanism):
    def run(change, network):
        x = torch.randn(4, 3, requires_grad=True)
        cond = torch.randn(3, requires_grad=True)
        with_cond = Denoiser(_Conditioned(network), PROCESS, DATA)
        out = sample(
            with_cond, DDIM().plan(PROCESS, GRID), x, cond=cond, gradient=Checkpoint(mechanism=mechanism)
        )
        with torch.no_grad():
            change(network, x, cond)
        out.sum().backward()

    def net():
        return nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.1), nn.Linear(8, 3))

    with pytest.raises(RuntimeError, match=r"inner\.2\.bias.*changed in place"):
        run(lambda network, x, cond: network[2].bias.add_(1), net())
    with pytest.raises(RuntimeError, match=r"cond\[0\].*changed in place"):
        run(lambda network, x, cond: cond.add_(1), net())
    with pytest.raises(RuntimeError, match="modified by an inplace|changed in place"):
        run(lambda network, x, cond: x.add_(1), net())
    with pytest.raises(RuntimeError, match="'inner.1' had"):
        run(lambda network, x, cond: network[1].eval(), net())
    with pytest.raises(RuntimeError, match="batch normalisation in train mode"):
        run(lambda network, x, cond: None, nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)))


class _Conditioned(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x, t, cond):
        return self.inner(x) * cond


class Timeless(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, t):
        return torch.tanh(self.net(x))


@pytest.mark.parametrize("lasts", [(2, 2), (2, 4), (4, 2), (4, 3, 9)])
def test_of_nested_truncations_the_shorter_one_holds(lasts):
    nested = Direct()
    for last in reversed(lasts):
        nested = Truncated(last, nested)
    slopes = []
    for gradient in (nested, Truncated(min(lasts), Direct())):
        net = nn.Linear(2, 2, dtype=torch.float64)
        with torch.no_grad():
            net.weight.fill_(0.7)
            net.bias.fill_(0.1)
        model = Denoiser(Timeless(net), PROCESS, DATA)
        out = sample(model, PLAN, X, gradient=gradient)
        slopes.append(torch.autograd.grad(out.sum(), net.weight)[0])
    assert slopes[0].any()
    torch.testing.assert_close(*slopes)
