"""A network as users have it: calls, labels, outputs, half precision, guidance; against the plain call by hand."""

import pickle
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from pullback.adjoint import Checkpoint, Direct, PerStep, sample
from pullback.solvers import (
    DDIM,
    EDM,
    NOISE,
    VP,
    Call,
    CastCond,
    ClassifierFree,
    Denoiser,
    DiscreteVP,
    DPMSolverPP,
    DPMSolverPPSingle,
    EDMPreconditioning,
    FirstChannels,
    Guided,
    Keywords,
    LabelsAt,
    LabelTable,
    LevelIndex,
    LogNoiseLevel,
    Mixture,
    Nearest,
    NoiseLevel,
    OwnTime,
    Passes,
    Positional,
    Scaled,
    Trailing,
    TrigFlowPreconditioning,
    UniformLambda,
    UniformT,
    V,
    VEPreconditioning,
    VPPreconditioning,
    WholeLabels,
    coefficients,
    run,
)
from pullback.solvers.loop import converted

PROCESS = VP()
PLAN = DPMSolverPP(2).plan(PROCESS, UniformLambda(4, start=1.0, end=0.05))
TABLE = DiscreteVP(torch.linspace(0.9999, 0.01, 100, dtype=torch.float64))


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(7, 16), nn.Tanh(), nn.Linear(16, 3))
        self.calls = 0

    def forward(self, x, t, cond=None, *, text=None, strength=1.0):
        self.calls += 1
        given = cond if cond is not None else text
        told = x.new_zeros(len(x), 3) if given is None else given.expand(len(x), 3)
        return strength * self.body(torch.cat([x, t[:, None].to(x), told], 1))


@dataclass
class Output:
    sample: Any


def network():
    torch.manual_seed(0)
    return Network()


def value_and_gradients(denoiser, x, cond, inputs, gradient):
    out = sample(denoiser, PLAN, x, cond=cond, gradient=gradient)
    return [out, *torch.autograd.grad(out.square().sum(), inputs)]


def assert_close(left, right, tolerance=1e-12):
    for a, b in zip(left, right, strict=True):
        assert torch.allclose(a, b, rtol=tolerance, atol=tolerance * float(b.detach().abs().max()))


# what comes back
# ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrap",
    [
        Output,
        lambda out: (out,),
        lambda out: (out, None),
        lambda out: [out, out * 2],
        lambda out: {"sample": out, "features": out * 2},
        lambda out: OrderedDict(eps=out),
    ],
    ids=["sample", "tuple", "longer tuple", "list", "dict", "dict of one"],
)
def test_what_networks_return(wrap):
    net = network()
    x = torch.randn(4, 3, requires_grad=True)
    inputs = [x, *net.parameters()]
    plain, wrapped = (
        Denoiser(net, PROCESS, V, call=call) for call in (Positional(), lambda n, x, t, c: wrap(n(x, t)))
    )
    for gradient in (Direct(), Checkpoint()):
        found, wanted = (value_and_gradients(d, x, None, inputs, gradient) for d in (wrapped, plain))
        assert_close(found, wanted, 0)


def test_learned_variances_are_left_out():
    net = network()
    both = Denoiser(lambda x, t: (torch.cat([net(x, t), x], 1),), PROCESS, V, call=FirstChannels())
    x, t = torch.randn(4, 3), torch.rand(4)
    assert torch.equal(both(x, t), net(x, t))


# how it is called
# ------------------------------------------------------------------------------------------


def test_conditioning_by_name():
    """Gradients reach every entry of the dict, one value per step too."""
    net = network()
    x, text = torch.randn(4, 3, requires_grad=True), torch.randn(4, 4, 3, requires_grad=True)
    strength = torch.tensor(0.7, requires_grad=True)
    cond = {"text": PerStep(text), "strength": strength}
    by_name = Denoiser(net, PROCESS, V, call=Keywords())
    by_hand = Denoiser(net, PROCESS, V, call=lambda n, x, t, c: n(x, t, text=c[0], strength=c[1]))
    inputs = [x, text, strength, *net.parameters()]
    for gradient in (Direct(), Checkpoint()):
        found = value_and_gradients(by_name, x, cond, inputs, gradient)
        wanted = value_and_gradients(by_hand, x, (PerStep(text), strength), inputs, gradient)
        assert_close(found, wanted)
    assert torch.equal(by_name(x, torch.ones(4)), net(x, torch.ones(4)))


class Mixed(nn.Module):
    """A bf16 body behind a float32 embedding of the time, as half-precision networks are kept."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(1, 3, dtype=torch.float32)
        self.body = nn.Linear(6, 3, dtype=torch.bfloat16)
        self.read = nn.Linear(2, 3, dtype=torch.bfloat16)

    def forward(self, x, t, cond):
        assert x.dtype == torch.bfloat16 and t.dtype == torch.float32
        told = self.embed(t[:, None]).to(x) + self.read(cond)
        return self.body(torch.cat([x, told], 1))


def test_half_precision_networks_with_float32_embeddings():
    torch.manual_seed(0)
    net, cond = Mixed(), torch.randn(4, 2, dtype=torch.float32, requires_grad=True)
    x, t = torch.randn(4, 3, dtype=torch.float32), torch.full((4,), 999.0, dtype=torch.float32)
    denoiser = Denoiser(net, PROCESS, V, dtype=torch.bfloat16, call=CastCond(torch.bfloat16))
    out = denoiser(x, t, cond)
    assert out.dtype == torch.float32
    assert torch.equal(out, net(x.bfloat16(), t, cond.bfloat16()).float())
    out.sum().backward()
    assert cond.grad is not None and cond.grad.dtype == torch.float32 and bool((cond.grad != 0).all())
    with pytest.raises(ValueError, match="call=CastCond"):
        Denoiser(nn.Bilinear(3, 2, 3, dtype=torch.bfloat16), PROCESS, V, dtype=torch.bfloat16,
                 call=lambda n, x, t, c: n(x, c))(x, t, cond.detach())  # fmt: skip


def test_the_networks_own_error_is_kept_with_a_note():
    def network(x, t):
        raise RuntimeError("my own")

    with pytest.raises(RuntimeError, match="my own") as found:
        Denoiser(network, PROCESS, V)(torch.zeros(4, 3), torch.zeros(4))
    assert "called with x a tensor (4, 3)" in found.value.__notes__[0]


# what it is told of t
# ------------------------------------------------------------------------------------------


def told(label, process, t):
    """What the network hears."""
    heard = []

    def network(x, t):
        heard.append(t)
        return x

    Denoiser(network, process, V, label=label)(torch.zeros(len(t), 2), t)
    return heard[0]


def test_labels():
    t = torch.tensor([0.1, 0.5, 1.0])
    assert torch.equal(told(Scaled(999.0), PROCESS, t), 999 * t)
    assert torch.equal(told(Scaled(10.0, offset=1.0), PROCESS, t), 10 * t + 1)
    rho = PROCESS.sigma(t) / PROCESS.alpha(t)
    assert torch.allclose(told(NoiseLevel(), PROCESS, t), rho, rtol=1e-12)
    assert torch.allclose(told(LogNoiseLevel(0.25), EDM(), t), t.log() / 4, rtol=1e-12)
    low = told(NoiseLevel(), PROCESS, t.float())
    assert low.dtype == torch.float32


LABELS = [
    OwnTime(),
    Scaled(9.0),
    NoiseLevel(),
    LogNoiseLevel(0.25),
    EDMPreconditioning(),
    VPPreconditioning(),
    VEPreconditioning(),
    TrigFlowPreconditioning(),
    LevelIndex(),
    Nearest(LevelIndex()),
    WholeLabels(Nearest()),
    LabelTable(torch.linspace(0, 999, 100)),
    LabelsAt([0.25, 7.5], [1.0, 2.0]),
]


@pytest.mark.parametrize("label", LABELS, ids=repr)
def test_every_label_keeps_shape_and_dtype_pickles_and_compares(label):
    """Of a float32 state as of a float64 one, to float32's accuracy; whole labels are int64."""
    t = torch.tensor([7.5, 0.25, 7.5])
    exact = label(t, TABLE)
    for dtype in (torch.float32, torch.float64):
        out = label(t.to(dtype), TABLE)
        assert out.shape == (3,) and out.dtype == (torch.int64 if isinstance(label, WholeLabels) else dtype)
        assert torch.allclose(out.double(), exact.double(), rtol=1e-5)
    again = pickle.loads(pickle.dumps(label))
    assert again == label and hash(again) == hash(label) and torch.equal(again(t, TABLE), exact)


def test_a_table_of_labels_is_linear_between_its_own():
    labels = torch.linspace(0, 999, 100) ** 1.1
    table = LabelTable(labels)
    t = torch.tensor([-1.0, 0.0, 3.0, 3.25, 98.5, 99.0])
    wanted = torch.stack([labels[0], labels[0], labels[3], labels[3] * 0.75 + labels[4] * 0.25,
                          (labels[98] + labels[99]) / 2, labels[99]])  # fmt: skip
    assert torch.allclose(told(table, TABLE, t), wanted, rtol=1e-12)
    assert table == LabelTable(labels.clone()) and hash(table) == hash(LabelTable(labels))
    with pytest.raises(
        ValueError,
        match="got 100 labels on .*, expected a DiscreteVP of as many steps; pass the labels of this table",
    ):
        told(table, VP(), torch.rand(3))


def test_labels_given_for_the_plan_s_own_nodes():
    """Rounded, in no order, one twice: the loop by hand, its gradients, and every other time is named."""
    denoiser = network()
    x, times = torch.randn(4, 3, requires_grad=True), torch.tensor(PLAN.times[:-1])
    told = torch.tensor([812.0, 500.0, 31.0, 7.0])
    order = [2, 0, 3, 1, 0]
    label = LabelsAt(times[order], told[order])
    labelled = Denoiser(denoiser, PROCESS, V, label=label)

    def by_hand(at, t):
        return denoiser(at, told.to(t)[(times.to(t) - t[0]).abs().argmin()].expand(len(at)))

    plain = Denoiser(by_hand, PROCESS, V)
    for gradient in (Direct(), Checkpoint()):
        inputs = [x, *denoiser.parameters()]
        assert_close(
            value_and_gradients(labelled, x, None, inputs, gradient),
            value_and_gradients(plain, x, None, inputs, Direct()),
        )
    for dtype in (torch.float32, torch.float64):  # what a run tells is rounded to the state's dtype
        assert torch.equal(label(times.to(dtype), PROCESS), told.to(dtype))
    assert pickle.loads(pickle.dumps(label)) == label == LabelsAt(times, told) != LabelsAt(times, told + 1)
    assert hash(label) == hash(LabelsAt(times, told)) and "4 times" in str(label)
    denoiser.calls = 0
    for other in (
        DDIM().plan(PROCESS, UniformLambda(5, start=1.0, end=0.05)),
        DPMSolverPPSingle(2).plan(PROCESS, UniformLambda(4, start=1.0, end=0.05)),
    ):
        with pytest.raises(
            ValueError, match=r"LabelsAt: got a network call at t=0\.\d+, expected one of the 4 times"
        ):
            sample(labelled, other, x)
        with pytest.raises(ValueError, match="LabelsAt"):
            sample(Denoiser(denoiser, PROCESS, V, label=WholeLabels(label)), other, x)
    assert denoiser.calls == 0 and label(torch.tensor([0.123]), PROCESS).isnan().all()
    with pytest.raises(ValueError, match="times that require grad"):
        sample(labelled, PLAN, x, coefficients=coefficients(PLAN, labelled).requires_grad_())
    for wrong, match in (
        (lambda: LabelsAt([0.1, 0.2], [1.0]), r"expected \(K,\) both"),
        (lambda: LabelsAt([0.1, 0.1], [1.0, 2.0]), "got two labels at t=0.1"),
        (lambda: LabelsAt([0.1, 0.1 + 1e-12], [1.0, 2.0]), "one in float32"),
        (lambda: LabelsAt([], []), r"expected \(K,\) both"),
    ):
        with pytest.raises(ValueError, match=match):
            wrong()


def test_whole_labels_are_looked_up():
    """The run with a table of embeddings is the run with the same numbers as a function of t."""
    embedding = nn.Embedding(100, 3)
    looked_up = Denoiser(lambda x, t: x + embedding(t), TABLE, NOISE, label=WholeLabels())
    computed = Denoiser(lambda x, t: x + embedding.weight[int(t[0])], TABLE, NOISE)
    plan, x = DDIM().plan(TABLE, Trailing(5)), torch.randn(4, 3)
    assert torch.equal(sample(looked_up, plan, x), sample(computed, plan, x))
    half = DDIM().plan(TABLE, UniformT(4, start=99.0, end=0.5))
    with pytest.raises(ValueError, match="expected whole labels at every network call; take a grid"):
        sample(looked_up, half, x)
    with pytest.raises(ValueError, match="expected whole labels"):
        sample(ClassifierFree(looked_up, 2.0), half, x)
    respaced = Denoiser(
        lambda x, t: x + embedding(t), TABLE, NOISE, label=WholeLabels(LabelTable(torch.arange(100.0) / 2))
    )
    with pytest.raises(ValueError, match="got label 49.5 at t=99"):
        sample(respaced, plan, x)


# guidance
# ------------------------------------------------------------------------------------------


def by_hand(net, x, t, cond, null, scale):
    without = net(x, t, null.expand(len(x), 3))
    return without + scale * (net(x, t, cond) - without)


@pytest.mark.parametrize("null_shape", [(3,), (1, 3), (4, 3)])
@pytest.mark.parametrize("passes", Passes)
def test_one_call_or_two_and_a_null_for_all(passes, null_shape):
    net, null = network(), torch.randn(null_shape)
    model = ClassifierFree(Denoiser(net, PROCESS, V), 3.0, null, passes=passes)
    x, t, cond = torch.randn(4, 3), torch.rand(4), torch.randn(4, 3)
    assert torch.allclose(model(x, t, cond), by_hand(net, x, t, cond, null, 3.0), rtol=1e-13, atol=1e-14)
    net.calls = 0
    model(x, t, cond)
    assert net.calls == (1 if passes is Passes.ONE else 2)


@pytest.mark.parametrize("passes", Passes)
def test_a_scale_for_each_channel(passes):
    """A scale of 1 leaves a channel conditional; a float32 state stays one."""
    base = Denoiser(lambda x, t, c: x.square() + c[:, None, None, None], PROCESS, V)
    x, t, cond = torch.randn(2, 4, 3, 3).float(), torch.rand(2).float(), torch.ones(2).float()
    scale = torch.tensor([3.0, 3.0, 3.0, 1.0], requires_grad=True)
    out = ClassifierFree(base, scale[:, None, None], torch.tensor(0.0).float(), passes=passes)(x, t, cond)
    assert out.dtype == torch.float32
    assert torch.allclose(out, x.square() + scale.float()[:, None, None], atol=1e-6)
    (gradient,) = torch.autograd.grad(out.sum(), scale)
    assert torch.allclose(gradient, torch.full((4,), 18.0))


def test_integer_labels_and_nested_conditioning_in_one_call():
    table, net = nn.Embedding(11, 3), network()
    base = Denoiser(lambda x, t, c: net(x, t, table(c["label"]) + c["more"][0]), PROCESS, V)
    x, t = torch.randn(4, 3), torch.rand(4)
    cond = {"label": torch.tensor([1, 2, 3, 4]), "more": (torch.randn(4, 3),)}
    null = {"label": torch.tensor(10), "more": (torch.zeros(3),)}
    two, one = (ClassifierFree(base, 2.0, null, passes=p)(x, t, cond) for p in (Passes.TWO, Passes.ONE))
    assert torch.allclose(two, one, rtol=1e-13, atol=1e-14)


def test_conditioning_of_batch_one_in_one_call():
    """As two calls take it, which broadcast it."""
    net, x, t = network(), torch.randn(4, 3), torch.rand(4)
    base = Denoiser(lambda x, t, c: net(x, t, c.expand(len(x), 3)), PROCESS, V)
    for cond, null in ((torch.randn(1, 3), torch.randn(3)), (torch.randn(1, 3), torch.randn(1, 3)),
                       (torch.randn(4, 3), torch.randn(1, 3))):  # fmt: skip
        two, one = (ClassifierFree(base, 2.0, null, passes=p)(x, t, cond) for p in (Passes.TWO, Passes.ONE))
        assert torch.allclose(two, one, rtol=1e-13, atol=1e-14)


def test_a_null_that_lacks_a_key_is_told_which():
    base = Denoiser(lambda x, t, **c: x, PROCESS, V, call=Keywords())
    model = ClassifierFree(base, 2.0, {"a": torch.zeros(3)}, passes=Passes.ONE)
    with pytest.raises(
        ValueError, match=r"Passes.ONE: got null with \['a'\] beside cond with \['a', 'b'\], expected"
    ):
        model(torch.zeros(4, 3), torch.zeros(4), {"a": torch.zeros(4, 3), "b": torch.zeros(4, 2)})


@pytest.mark.parametrize("passes", Passes)
@pytest.mark.parametrize("gradient", [Direct(), Checkpoint()], ids=str)
@pytest.mark.parametrize("shape", [(4,), (4, 4)], ids=["per step", "per step and sample"])
def test_a_scale_for_each_step_receives_its_gradient(shape, gradient, passes):
    """DDIM by hand with the guided network, and autograd through it."""
    net, null = network(), torch.zeros(3)
    x, cond = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    scales = (1 + torch.rand(shape)).requires_grad_()
    plan, state = DDIM().plan(PROCESS, UniformLambda(4, start=1.0, end=0.05)), x
    times = torch.tensor(plan.times)
    for k in range(4):
        a, s, b, r = (float(f(times[j])) for j in (k, k + 1) for f in (PROCESS.alpha, PROCESS.sigma))
        scale = scales[k] if len(shape) == 1 else scales[k][:, None]
        v = by_hand(net, state, times[k].expand(4), cond, null, scale)
        state = b * (a * state - s * v) + r * (s * state + a * v)
    inputs = [x, cond, scales, *net.parameters()]
    wanted = [state, *torch.autograd.grad(state.square().sum(), inputs)]
    model = ClassifierFree(Denoiser(net, PROCESS, V), 7.0, null, passes=passes)
    out = sample(model, plan, x, cond=Guided(cond, PerStep(scales)), gradient=gradient)
    assert_close([out, *torch.autograd.grad(out.square().sum(), inputs)], wanted, 1e-11)


# toy
# ------------------------------------------------------------------------------------------


def test_a_float32_mixture_moves_to_float64():
    """Full covariances, one of them singular: rounding to float32 leaves asymmetry and negative eigenvalues."""
    a = torch.randn(5, 8, 8, dtype=torch.float32)
    covs = a @ torch.diag_embed(torch.rand(5, 8, dtype=torch.float32)) @ a.mT
    covs[0] = a[0, :, :2] @ a[0, :, :2].mT
    covs = covs + 1e-7 * covs.abs().max() * torch.randn(5, 8, 8, dtype=torch.float32)
    narrow = Mixture(torch.ones(5, dtype=torch.float32), torch.randn(5, 8, dtype=torch.float32), covs)
    wide = narrow.to(torch.float64)
    assert wide.means.dtype == torch.float64
    assert torch.allclose(wide.covs, covs.double(), atol=1e-4 * float(covs.abs().max()))
    x = torch.randn(6, 8, dtype=torch.float64)
    assert torch.allclose(wide.denoise(x, 0.6, 0.8), narrow.denoise(x.float(), 0.6, 0.8).double(), atol=1e-3)


def test_a_prediction_that_is_wanted_as_it_is_costs_nothing():
    x, out, t = torch.randn(2, 3), torch.randn(2, 3), torch.full((2,), 0.5)
    assert converted(Call(0, 0, t, 0.0, 1.0), x, out) is out
    for a, b in ((0.5, 1.0), (-1.0, 1.0), (0.0, 2.0)):
        assert torch.allclose(converted(Call(0, 0, t, a, b), x, out), a * x + b * out)


@pytest.mark.parametrize(
    "error, seen", [(torch.OutOfMemoryError, torch.OutOfMemoryError), (RuntimeError, ValueError)]
)
def test_running_out_of_memory_is_not_explained_away(error, seen):
    """Where the same call, failed otherwise, is told that its conditioning is a dict."""

    def network(x, t, cond):
        raise error("no room")

    model = Denoiser(network, VP(), NOISE)
    with pytest.raises(seen, match="no room" if seen is error else "got a dict with"):
        model(torch.randn(2, 3), torch.full((2,), 0.5), {"text": torch.randn(2, 3)})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_the_time_that_a_network_is_told_is_not_rounded_to_a_half(dtype):
    """979 is no number of bfloat16: of a state in it the network was told 980."""
    process, seen = DiscreteVP((1 - torch.linspace(1e-4, 0.02, 1000)).cumprod(0)), []

    def network(x, t):
        seen.append(t)
        return 0.1 * x

    plan = DDIM().plan(process, [999.0, 979.0, 959.0])
    run(Denoiser(network, process, NOISE, label=WholeLabels()), plan, torch.randn(2, 3).to(dtype))
    assert [t.tolist() for t in seen] == [[999, 999], [979, 979]]
