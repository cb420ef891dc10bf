"""A whole run inside torch.compile(fullgraph=True): one graph, the values and gradients of the plain run, and no check
left out without a word.
"""

import itertools
import shutil

import pytest
import torch
from everything import Network
from problems import PROCESS, every_method
from strategies import close, network
from torch import nn
from torch._dynamo.exc import InternalTorchDynamoError
from torch._dynamo.utils import counters
from torch.autograd.graph import saved_tensors_hooks
from untyped import untyped

from pullback import adjoint
from pullback.adjoint import Auto, Checkpoint, Direct, Mechanism, PerStep, Reversible, Truncated
from pullback.solvers import (
    DATA,
    DDIM,
    DDPM,
    DEIS,
    ERSDE,
    LMS,
    Addressed,
    Clamp,
    Denoiser,
    DPMSolverPP,
    EDMHeun,
    FlowAdams,
    FlowEuler,
    FlowSDE,
    GivenNoise,
    Method,
    OnData,
    Process,
    RecordedNoise,
    RectifiedFlow,
    Restart,
    SASolver,
    SDEDPMSolverPP,
    UniformT,
    UniPC,
    V,
    coefficients,
)

GRID = UniformT(3, start=0.9, end=0.05)
PLAN = DPMSolverPP(2).plan(PROCESS, GRID)
NOISY = SDEDPMSolverPP(2).plan(PROCESS, GRID)


def short(method: Method = DPMSolverPP(2), steps: int = 2, process: Process = PROCESS):
    return method.plan(process, UniformT(steps, start=0.9, end=0.05))


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    counters.clear()
    with untyped():
        yield
    torch._dynamo.reset()
    torch.compiler.set_stance("default")


def whole(run, backend="eager"):
    """`run` in one graph; a break is an error. "eager" traces the run alone, "aot_eager" the backward pass too."""
    return torch.compile(run, backend=backend, fullgraph=True)


def graphs():
    return counters["stats"]["unique_graphs"]


def everything_into(plan, gradient):
    """A run that everything enters, and all that its gradient reaches."""
    torch.manual_seed(0)
    net = Network()
    x, scale, shift = torch.randn(5, 3), torch.randn(plan.steps, 5, 3), torch.randn(3)
    controls, noise = torch.randn(plan.steps, 5, 3), torch.randn(max(plan.slots, 1), 5, 3)
    given = [v.requires_grad_() for v in (x, scale, shift, controls, *([noise] if plan.slots else []))]
    denoiser = Denoiser(net, plan.process, V)

    def loss():
        out = adjoint.sample(
            denoiser,
            plan,
            x,
            cond={"scale": PerStep(scale), "shifts": (shift,)},
            noise=noise if plan.slots else None,
            controls=controls,
            gradient=gradient,
        )
        return out.square().sum()

    return loss, [*given, *(p for p in net.parameters() if p.requires_grad), net.captured]


def assert_one_graph(plan, gradient):
    loss, leaves = everything_into(plan, gradient)
    compiled = whole(loss, "aot_eager")
    for _ in range(2):  # the second time nothing is compiled
        found, wanted = compiled(), loss()
        close(
            [found, *torch.autograd.grad(found, leaves, allow_unused=True)],
            [wanted, *torch.autograd.grad(wanted, leaves, allow_unused=True)],
            1e-12,
        )
        assert graphs() == 1 and not counters["graph_break"]
        torch.compiler.set_stance("fail_on_recompile")


@pytest.mark.parametrize("gradient", [Checkpoint(), pytest.param(Direct(), marks=pytest.mark.slow)], ids=str)
def test_value_and_gradient(gradient):
    assert_one_graph(short(SDEDPMSolverPP(2)), gradient)


METHODS = [
    DDIM(), DDPM(), DPMSolverPP(1), DPMSolverPP(2), DPMSolverPP(3), DEIS(3), UniPC(2), EDMHeun(), LMS(3),
    SASolver(2, 2), SDEDPMSolverPP(2), ERSDE(2), Restart(EDMHeun(), 0.2, 0.8), OnData(DPMSolverPP(2), Clamp()),
]  # fmt: skip
FLOWS = [FlowEuler(), FlowAdams(2), FlowSDE()]


@pytest.mark.slow
@pytest.mark.parametrize("method", [*METHODS, *FLOWS], ids=str)
def test_methods(method):
    process = RectifiedFlow() if method in FLOWS else PROCESS
    assert_one_graph(method.plan(process, GRID), Direct())


def ends_of_each_kind():
    """The first and the last variant of every public method."""
    kinds = itertools.groupby(every_method(), type)
    return [
        method
        for _, found in kinds
        for each in [list(found)]
        for method in dict.fromkeys((each[0], each[-1]))
    ]


@pytest.mark.slow
@pytest.mark.parametrize("method", ends_of_each_kind(), ids=str)
def test_every_method_is_one_graph(method):
    """As traced, which is what a method has a hand in; `test_methods` has the backward graph too."""
    process = RectifiedFlow() if "Flow" in type(method).__name__ else PROCESS
    loss, leaves = everything_into(short(method, process=process), Direct())
    found, wanted = whole(loss)(), loss()
    close(
        [found, *torch.autograd.grad(found, leaves, allow_unused=True)],
        [wanted, *torch.autograd.grad(wanted, leaves, allow_unused=True)],
        1e-12,
    )
    assert graphs() == 1 and not counters["graph_break"]


@pytest.fixture
def x():
    return torch.randn(2, 3, requires_grad=True)


def test_another_plan_is_another_graph(x):
    """The numbers are constants: a run must never be made with those of the plan before."""
    denoiser, plans = Denoiser(network(), PROCESS, DATA), [short(), short(DDIM())]
    run = whole(lambda plan: adjoint.sample(denoiser, plan, x))
    for compiled, plan in ((1, plans[0]), (2, plans[1]), (2, plans[0])):
        assert (
            torch.allclose(run(plan), adjoint.sample(denoiser, plan, x), rtol=1e-12) and graphs() == compiled
        )
    for k in range(3):  # a plan that comes to lie where one was that is gone
        plan = short(steps=2 + k)
        assert torch.allclose(run(plan), adjoint.sample(denoiser, plan, x), rtol=1e-12) and graphs() == 3 + k
        del plan
    denoiser.prediction = V
    assert torch.allclose(run(plans[0]), adjoint.sample(denoiser, plans[0], x), rtol=1e-12) and graphs() == 6


def test_given_numbers_and_seeds_share_a_graph(x):
    """`coefficients` and the address of noise are tensors that go into the graph."""
    plan, denoiser = short(SDEDPMSolverPP(1)), Denoiser(network(), PROCESS, DATA)

    def run(values, noise):
        return (
            adjoint.sample(denoiser, plan, x, noise=noise, coefficients=values, gradient=Direct())
            .square()
            .sum()
        )

    compiled = whole(run)
    numbers = coefficients(plan, denoiser)
    for scale, noise in (
        (1.0, Addressed(3)),
        (0.9, Addressed(2**100 + 1)),
        (1.1, Addressed(7, stream=2**64 - 1)),
    ):
        values = (scale * numbers).requires_grad_()
        found, wanted = compiled(values, noise), run(values, noise)
        close(torch.autograd.grad(found, [x, values]), torch.autograd.grad(wanted, [x, values]), 1e-12)
        assert torch.allclose(found, wanted, rtol=1e-12) and graphs() == 1
    numbered = Addressed(2**90, (5, 2**63 + 1))
    assert torch.allclose(compiled(values, numbered), run(values, numbered), rtol=1e-12)


def test_states_along_the_way_and_a_truncation(x):
    """Of the first steps nothing is differentiated, and a warning says so, as outside a graph."""
    net, plan = network(), short(steps=3)
    denoiser = Denoiser(net, PROCESS, DATA)

    def run():
        middle, end = adjoint.trajectory(denoiser, plan, x, [2, 3], gradient=Truncated(2, inner=Direct()))
        return (middle + end.sin()).sum()

    with pytest.warns(UserWarning, match="only the last 2 of 3 steps"):
        found = whole(run)()
    with pytest.warns(UserWarning, match="only the last 2 of 3 steps"):
        wanted = run()
    leaves = [x, *net.parameters()]
    left, right = (torch.autograd.grad(out, leaves, allow_unused=True) for out in (found, wanted))
    close([found, *left], [wanted, *right], 1e-12)
    assert left[0] is None and left[1] is not None


class Overwriting(nn.Module):
    """A network that writes into what it is given, and returns one buffer every time."""

    def __init__(self):
        super().__init__()
        self.buffer = torch.zeros(2, 3)

    def forward(self, x, t):
        x.mul_(0.5)
        t.add_(1)
        self.buffer.copy_(x.tanh() * t[:, None])
        return self.buffer


def test_writes_in_place_reach_nobody(x):
    """Outside a graph they are refused, by counters that a tracer lacks; here everybody has a copy of his own."""
    plan, start = short(steps=3), x.detach()
    careful = Denoiser(lambda x, t: (0.5 * x).tanh() * (t[:, None] + 1), PROCESS, DATA)
    overwriting = Denoiser(Overwriting(), PROCESS, DATA)
    found = whole(lambda: adjoint.sample(overwriting, plan, start, gradient=None))()
    assert torch.allclose(found, adjoint.sample(careful, plan, start, gradient=None), rtol=1e-12)


class Wide(nn.Module):
    """A network whose activations are 64 times its state."""

    def __init__(self, dropout):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 192), nn.Dropout(dropout), nn.Tanh(), nn.Linear(192, 3))

    def forward(self, x, t):
        return self.body(x) * t[:, None]


@pytest.mark.parametrize("dropout", [0.0, pytest.param(0.3, marks=pytest.mark.slow)])
def test_checkpoint_keeps_states_only(dropout):
    """What is saved between the passes, in numbers; what dropout drew is drawn again, from a state of the generator."""
    net, start, plan = Wide(dropout), torch.randn(8, 3, requires_grad=True), short(steps=3)
    denoiser, leaves = Denoiser(net, PROCESS, DATA), [start, *net.parameters()]

    def made(gradient, compiled):
        def run():
            return adjoint.sample(denoiser, plan, start, gradient=gradient).square().sum()

        run = whole(run, "aot_eager") if compiled else run
        kept = {}
        torch.manual_seed(5)
        with saved_tensors_hooks(
            lambda tensor: kept.setdefault(tensor.data_ptr(), tensor), lambda tensor: tensor
        ):
            out = run()
        shapes = [tuple(tensor.shape) for tensor in kept.values()]
        return shapes, [out, *torch.autograd.grad(out, leaves)]

    shapes, found = made(Checkpoint(), True)
    _, wanted = made(Checkpoint(), False)
    close(found, wanted, 1e-12)
    assert shapes.count((8, 192)) == 0 and shapes.count((8, 3)) <= 4
    if not dropout:
        assert made(Direct(), True)[0].count((8, 192)) == 3


def test_plain_sampling_needs_no_grad_mode(x):
    denoiser, plan = Denoiser(network(), PROCESS, DATA), short()
    for gradient, want in ((None, False), (Auto(), True)):
        found = whole(lambda g=gradient: adjoint.sample(denoiser, plan, x, gradient=g))()
        assert found.requires_grad is want
        assert torch.allclose(found, adjoint.sample(denoiser, plan, x), rtol=1e-12)


def test_another_batch_size_is_another_graph():
    """Also where torch would take the second size for a symbol: what is checked holds for numbers."""
    denoiser, plan = Denoiser(network(), PROCESS, DATA), short()
    run = whole(lambda x: adjoint.sample(denoiser, plan, x, gradient=None))
    for k, size in enumerate((2, 3)):
        start = torch.randn(size, 3)
        wanted = adjoint.sample(denoiser, plan, start, gradient=None)
        assert torch.allclose(run(start), wanted, rtol=1e-12) and graphs() == k + 1


@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.vmap], ids=lambda f: f.__name__)
def test_inside_a_graph_inside_a_transform(transform, x):
    denoiser, plan = Denoiser(network(), PROCESS, DATA), short()

    def loss(row):
        return adjoint.sample(denoiser, plan, row.reshape(-1, 3), gradient=Direct()).square().sum()

    start = x.detach()
    assert torch.allclose(whole(lambda x: transform(loss)(x))(start), transform(loss)(start), rtol=1e-12)


# what a graph has no room for, or would be wrong anywhere: (what is passed, the words)
REFUSED = {
    "strategy": ({"gradient": Reversible()}, "gradient=Reversible: got a call inside torch.compile, expected Direct"),
    "settings": ({"gradient": Checkpoint(offload=True)}, "got settings inside torch.compile.*leave them out"),
    "mechanism": (
        {"gradient": Checkpoint(mechanism=Mechanism.REGION)}, "got settings inside torch.compile.*leave them out"
    ),
    "observed": ({"gradient": Checkpoint(observe=print)}, "got settings inside torch.compile.*leave them out"),
    "limits": ({"gradient": Auto(memory=1000)}, "gradient=Auto.*got settings inside torch.compile"),
    "inner": ({"gradient": Truncated(1, Reversible())}, "gradient=Reversible: got a call inside torch.compile"),
    "callback": ({"callback": print}, "callback: got one inside torch.compile"),
    "progress": ({"progress": True}, "progress: got one inside torch.compile"),
    "keep_finite": ({"keep_finite": True}, "keep_finite: got one inside torch.compile"),
    "joint": ({"x": [torch.ones(2, 3)]}, "x: got a joint state inside torch.compile"),
    "noise": ({"plan": NOISY, "noise": RecordedNoise(Addressed(0))}, "noise: got RecordedNoise inside torch.compile"),
    "no noise": ({"plan": NOISY}, "noise: got None, expected a source with 3 slots"),
    "draws": ({"plan": NOISY, "noise": GivenNoise(torch.ones(3, 2, 4))}, "noise: got a tensor of shape"),
    "ids": ({"plan": NOISY, "noise": Addressed(0, (1, 2, 3))}, "got 3 sample ids, expected 2"),
    "process": ({"plan": FlowEuler().plan(RectifiedFlow(), GRID)}, "process: got a plan for RectifiedFlow"),
    "state": ({"x": torch.ones(3)}, "x: got shape .3,"),
    "per step": ({"cond": PerStep(torch.ones(5, 2, 3))}, "got PerStep with 5 values, expected 3"),
    "controls": ({"controls": torch.ones(2, 2, 3)}, "controls: got shape"),
    "numbers": ({"coefficients": torch.ones(4)}, "coefficients: got shape"),
    "model": ({"denoiser": nn.Linear(2, 2)}, "denoiser: got a Linear, expected a Denoiser"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_come_while_it_is_traced(name, x):
    passed, words = REFUSED[name]
    calls = []

    def counted(x, t, cond=None):
        calls.append(1)
        return torch.tanh(x)

    given = {"denoiser": Denoiser(counted, PROCESS, DATA), "plan": PLAN, "x": x, **passed}
    with pytest.raises(InternalTorchDynamoError, match=words):
        whole(lambda: adjoint.sample(**given))()
    assert not calls


def test_where_nothing_requires_grad(x):
    module, bare = (
        Denoiser(network().requires_grad_(False), PROCESS, DATA),
        Denoiser(lambda x, t: -x, PROCESS, DATA),
    )
    for denoiser in (module, bare):  # what a bare function reaches is known at the end only
        with pytest.raises(InternalTorchDynamoError, match="none of which requires grad"):
            whole(lambda d=denoiser: adjoint.sample(d, PLAN, x.detach(), gradient=Direct()))()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="inductor needs a C++ compiler")
def test_inductor(x):
    """The default backend, which writes a program of its own."""
    net = network()
    denoiser, plan, leaves = Denoiser(net, PROCESS, DATA), short(), [x, *net.parameters()]

    def loss():
        return adjoint.sample(denoiser, plan, x).square().sum()

    found, wanted = whole(loss, "inductor")(), loss()
    close([found, *torch.autograd.grad(found, leaves)], [wanted, *torch.autograd.grad(wanted, leaves)], 1e-10)


@pytest.mark.gpu
@pytest.mark.device
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("gradient", [Direct(), Checkpoint()], ids=str)
@pytest.mark.parametrize("how", [{"backend": "cudagraphs"}, {"mode": "reduce-overhead"}], ids=str)
def test_captured_in_a_cuda_graph(how, gradient):
    """Forwards and backwards the host launches one graph each; what enters may change in place between two runs."""
    net = network().cuda()
    x = torch.randn(2, 3, device="cuda", requires_grad=True)
    noise = torch.randn(2, 2, 3, device="cuda", requires_grad=True)
    denoiser, plan, leaves = (
        Denoiser(net, PROCESS, DATA),
        short(SDEDPMSolverPP(1)),
        [x, noise, *net.parameters()],
    )

    def run():
        return adjoint.sample(denoiser, plan, x, noise=noise, gradient=gradient).square().sum()

    def passes(run):
        out = run()
        return [out.detach().clone(), *(g.clone() for g in torch.autograd.grad(out, leaves))]

    compiled = torch.compile(run, fullgraph=True, **how)
    for _ in range(4):  # the first ones warm up and record
        with torch.no_grad():
            x.add_(0.1)  # in the memory that the graph reads
        torch.compiler.cudagraph_mark_step_begin()
        close(passes(compiled), passes(run), 1e-6)
    assert not counters["inductor"]["cudagraph_skips"]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        torch.compiler.cudagraph_mark_step_begin()
        passes(compiled)
    launched = {event.key: event.count for event in profile.key_averages()}
    assert launched.get("cudaGraphLaunch", 0) >= 2
