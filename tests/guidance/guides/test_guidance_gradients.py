"""The gradient of guidance itself: at strengths, schedules, measurement and operator, through second derivatives."""

import weakref

import pytest
import torch
from guides import ENDS, GUIDES, MATRIX, MODEL, PROCESS, SEEN, Y, named
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pullback.adjoint import (
    Checkpoint,
    Continuous,
    Direct,
    Gradient,
    JacobianFree,
    PerStep,
    Reversible,
    Truncated,
)
from pullback.guidance import (
    DAPS,
    DPS,
    TMPD,
    Bayes,
    Damped,
    Matrix,
    Measurement,
    PiGDM,
    Raw,
    REDdiff,
    Residual,
    Shell,
    Through,
    Unit,
    steer,
)
from pullback.solvers import DATA, DDIM, Addressed, Denoiser, DPMSolverPP, UniformLambda, UniformT

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
PLAN = DDIM(0.8).plan(PROCESS, UniformLambda(4, **ENDS))
CHECKPOINTS = [Checkpoint(), Checkpoint(offload=True)]


def through(guide, x, gradient, plan=PLAN, model=MODEL):
    noise = Addressed(0) if plan.slots else None
    return steer(model, plan, x, guide, noise=noise, through=Through.FULL, gradient=gradient).sample


class Net(nn.Module):
    """Smooth, with weights, and seen while it is called."""

    def __init__(self):
        super().__init__()
        self.body, self.calls = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4)), 0

    def forward(self, x, t):
        self.calls += 1
        return self.body(torch.cat([x, t[:, None]], 1))


def net(seed=0):
    torch.manual_seed(seed)
    return Denoiser(Net(), PROCESS, DATA)


def by_hand(model, plan, x, matrix, y, scales):
    """DPS on DDIM, unrolled: x_s <- DDIM(x_t) - zeta_k grad |y - A D(x_t)|^2 / |y - A D(x_t)|, its graph kept."""
    for k, zeta in enumerate(scales):
        t, s = (torch.tensor(each, dtype=torch.float64) for each in plan.times[k : k + 2])
        if not x.requires_grad:
            x = x.clone().requires_grad_()
        data = model(x, t.expand(len(x)))
        loss = (y - data @ matrix.T).square().sum(1)
        (slope,) = torch.autograd.grad(loss.sum(), x, create_graph=True)
        ratio = PROCESS.sigma(s) / PROCESS.sigma(t)
        after = ratio * x + (PROCESS.alpha(s) - PROCESS.alpha(t) * ratio) * data
        x = after - zeta * slope / loss.sqrt()[:, None]
    return x


@pytest.mark.parametrize("gradient", [Direct(), *CHECKPOINTS], ids=str)
def test_all_that_guides_is_differentiated_as_an_unrolled_loop(gradient):
    """Scale of each step, measurement, operator, start and weights, to round-off."""
    plan, model = DDIM().plan(PROCESS, UniformLambda(5, **ENDS)), net()
    scales, y = torch.linspace(0.1, 0.5, 5).requires_grad_(), Y.expand(3, 2).clone().requires_grad_()
    matrix, x = MATRIX.clone().requires_grad_(), X.clone().requires_grad_()
    leaves = [scales, y, matrix, x, *model.parameters()]
    guide = DPS(Measurement(Matrix(matrix), y, 0.3), Residual(PerStep(scales)))
    found, plain = through(guide, x, gradient, plan, model), by_hand(model, plan, x, matrix, y, scales)
    assert torch.allclose(found, plain, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(
        *(torch.autograd.grad(out.square().sum(), leaves) for out in (found, plain)), strict=True
    ):
        assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize(
    "guide",
    [
        pytest.param(guide, marks=[pytest.mark.slow] if k else [], id=f"{named(guide)}{k}")
        for guides in GUIDES.values()
        for k, guide in enumerate(guides)
    ],
)
def test_every_guide_goes_by_its_own_finite_differences(guide):
    """By one direction of x; nothing in a guide may be held constant without a word."""
    plan = DDIM(0.8).plan(PROCESS, UniformLambda(3, **ENDS))
    generator = torch.Generator().manual_seed(1)
    direction, weight = (torch.randn(X.shape, generator=generator, dtype=torch.float64) for _ in range(2))
    slopes = []
    for gradient in (Direct(), Checkpoint()):
        x = X.clone().requires_grad_()
        slopes += torch.autograd.grad((through(guide, x, gradient, plan) * weight).sum(), x)
    assert torch.allclose(*slopes, rtol=1e-12, atol=1e-14)
    h = 1e-6
    ends = [steer(MODEL, plan, X + s * h * direction, guide, noise=Addressed(0)).sample for s in (1, -1)]
    want = ((ends[0] - ends[1]) * weight).sum() / (2 * h)
    assert torch.allclose((slopes[0] * direction).sum(), want, rtol=1e-5, atol=1e-7)


POLICIES = [
    (SEEN, Raw), (SEEN, Unit), (SEEN, Residual), (SEEN.nats, Bayes), (SEEN.nats, lambda s: Damped(Bayes(s))),
    (SEEN.nats, lambda s: Shell(Raw(s))),
]  # fmt: skip


SHAPES = {"one": (), "each": (3,), "steps": (4,), "each step": (4, 3)}
CASES = [(*POLICIES[0], shape) for shape in SHAPES] + [(*each, "each step") for each in POLICIES[1:]]


@pytest.mark.parametrize(
    "loss, policy, shape", CASES, ids=lambda each: getattr(each, "__name__", str(each)[:9])
)
def test_strengths_of_every_shape_have_their_gradient(loss, policy, shape):
    """One for all, one for each sample, one for each step or both; by finite differences."""
    shape = SHAPES[shape]
    base = 0.05 + 0.02 * torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def run(value, gradient: Gradient = Direct()):
        strength = value if shape in ((), (3,)) else PerStep(value)
        return through(DPS(loss, policy(strength)), X, gradient).square().sum()

    value = base.clone().requires_grad_()
    (slope,) = torch.autograd.grad(run(value, Checkpoint()), value)
    moved = torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    ends = [float(run(base + s * 1e-6 * moved).detach()) for s in (1, -1)]
    assert float((slope * moved).sum()) == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5)


@pytest.mark.parametrize(
    "make", [lambda m: DPS(m.nats, Bayes(0.1)), TMPD, PiGDM, DAPS], ids=["DPS", "TMPD", "PiGDM", "DAPS"]
)
def test_the_noise_that_a_measurement_is_believed_to_have(make):
    """d/ds_y by finite differences."""

    def run(std, gradient: Gradient = Direct()):
        return through(make(Measurement(Matrix(MATRIX), Y, std)), X, gradient).square().sum()

    std = torch.tensor(0.3, requires_grad=True)
    (slope,) = torch.autograd.grad(run(std, Checkpoint()), std)
    ends = [float(run(0.3 + s * 1e-6).detach()) for s in (1, -1)]
    assert float(slope) == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5)


def test_a_strength_of_each_step_is_that_number_there():
    assert torch.equal(
        through(DPS(SEEN, Raw(PerStep(torch.full((4, 3), 0.05)))), X, Direct()),
        through(DPS(SEEN, Raw(0.05)), X, Direct()),
    )


def test_held_corrections_are_the_same_by_both_strategies():
    found = []
    for gradient in (Direct(), Checkpoint()):
        x = X.clone().requires_grad_()
        out = steer(
            MODEL, PLAN, x, DPS(SEEN), noise=Addressed(0), through=Through.STOPPED, gradient=gradient
        ).sample
        found += torch.autograd.grad(out.square().sum(), x)
    assert torch.allclose(*found, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("guide", [DPS(SEEN), REDdiff(SEEN)], ids=named)
def test_a_multistep_plan_and_its_history(guide):
    plan, found = DPMSolverPP(2).plan(PROCESS, UniformLambda(5, **ENDS)), []
    for gradient in (Direct(), Checkpoint()):
        x = X.clone().requires_grad_()
        out = steer(MODEL, plan, x, guide, draws=Addressed(3), through=Through.FULL, gradient=gradient).sample
        found += torch.autograd.grad(out.square().sum(), x)
    assert torch.allclose(*found, rtol=1e-12, atol=1e-14)


def test_a_sample_has_its_gradient_whoever_is_beside_it():
    def slope(x, rows):
        x = x.clone().requires_grad_()
        out = steer(MODEL, PLAN, x, DPS(SEEN), noise=Addressed(0, rows), through=Through.FULL).sample
        return torch.autograd.grad(out.square().sum(), x)[0]

    assert torch.allclose(slope(X, (0, 1, 2))[1:2], slope(X[1:2], (1,)), rtol=1e-12)


class Alive(TorchDispatchMode):
    """Counts the tensors of a shape that are alive at a time."""

    def __init__(self, shape):
        super().__init__()
        self.shape, self.keys, self.most = shape, set(), 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and leaf.shape == self.shape:
                storage = leaf.untyped_storage()
                if storage._cdata not in self.keys:
                    self.keys.add(storage._cdata)
                    weakref.finalize(storage, self.keys.discard, storage._cdata)
                    self.most = max(self.most, len(self.keys))
        return out


def activations(gradient, steps):
    """The most activations of a network's hidden layers that a value and its gradient have alive at a time."""
    hidden, scale = 64, torch.tensor(0.1, requires_grad=True)
    torch.manual_seed(0)
    body = nn.Sequential(
        nn.Linear(4, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, 4)
    )
    model = Denoiser(lambda x, t: body(x), PROCESS, DATA)
    plan = DDIM().plan(PROCESS, UniformT(steps, start=0.9, end=0.05))
    with Alive((3, hidden)) as alive:
        out = through(DPS(SEEN, Raw(scale)), X, gradient, plan, model)
        torch.autograd.grad(out.square().sum(), scale)
    return alive.most


def test_memory_is_one_steps_graph_whatever_the_number_of_steps():
    """As many at 3 steps as at 9, where a graph over the run holds thrice as many."""
    kept, plain = ([activations(gradient, n) for n in (3, 9)] for gradient in (Checkpoint(), Direct()))
    assert kept[1] == kept[0] < plain[0] and plain[1] > 2.5 * plain[0]


@pytest.mark.parametrize("guide", [DPS(SEEN), REDdiff(SEEN)], ids=named)
def test_nothing_of_a_run_is_left(guide, live):
    """A guide that remembers tensors with a graph included: no cycle through autograd's own graph."""
    counts = []
    for _ in range(3):
        steer(MODEL, PLAN, X.clone().requires_grad_(), guide, noise=Addressed(0), through=Through.FULL)
        counts.append(live())
    assert counts[2] == counts[0]


# what cannot be differentiated so, and what must not change
# ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "gradient, message",
    [
        (Reversible(), "expected Checkpoint"),
        (Continuous(), "expected Checkpoint"),
        (Truncated(2), "expected Checkpoint"),
        (JacobianFree(), "expected Checkpoint"),
        (Checkpoint(memory_budget=10_000), "got a guided run"),
        (Checkpoint(recursive=True), "got a guided run"),
    ],
    ids=str,
)
def test_other_strategies_are_refused_before_any_call(gradient, message):
    model = net()
    with pytest.raises(ValueError, match=message):
        through(DPS(SEEN), X, gradient, model=model)
    assert not next(iter(model.networks())).calls


def test_a_strategy_in_vain_is_refused():
    with pytest.raises(ValueError, match="got through=Through.NOTHING"):
        steer(MODEL, PLAN, X, DPS(SEEN), noise=Addressed(0), gradient=Checkpoint())


def test_a_schedule_of_another_length_is_refused_before_any_call():
    model, guide = net(), DPS(SEEN.nats, Damped(Raw(PerStep(torch.ones(3)))))
    for given in (guide, guide.during(0.5), guide + DPS(SEEN)):
        with pytest.raises(ValueError, match=r"Raw.scale: got PerStep with 3 values, expected 4"):
            through(given, X, Direct(), model=model)
    assert not next(iter(model.networks())).calls


def test_a_strength_that_changes_before_the_backward_pass_is_an_error():
    scale = torch.tensor(0.1, requires_grad=True)
    out = through(DPS(SEEN, Raw(scale)), X, Checkpoint())
    with torch.no_grad():
        scale.mul_(2)
    with pytest.raises(RuntimeError, match="changed in place"):
        out.sum().backward()


def test_dropout_is_replayed():
    found = []
    for gradient in (Direct(), Checkpoint()):
        torch.manual_seed(0)
        body = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Dropout(0.3), nn.Linear(16, 4))
        model, x = Denoiser(lambda x, t, body=body: body(x), PROCESS, DATA), X.clone().requires_grad_()
        out = through(DPS(SEEN), x, gradient, model=model)
        torch.rand(5)  # the generator has moved on
        found += torch.autograd.grad(out.square().sum(), [x, *body.parameters()])
    half = len(found) // 2
    for ours, theirs in zip(found[:half], found[half:], strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-14)
