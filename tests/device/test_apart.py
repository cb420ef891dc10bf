"""The host never waits for the device between the first and the last network call, and nothing is left behind on it.

A run's inputs, network and noise lie on the device. What is made on the way must be made there: a tensor on the
host would be an error beside them, and a number read from them would make every call wait for the one before.
"""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from apart import Apart, Cuda, HostRead, StandIn, Watched
from everything import GRID, Network
from problems import PROCESS, every_method, thinned
from strategies import STRATEGIES, close, plan_for
from torch import Tensor, nn

from pullback.adjoint import Checkpoint, Direct, Gradient, PerStep, Reversible, sample, trajectory
from pullback.adjoint.one_graph import in_one_graph
from pullback.solvers import (
    DDPM,
    Addressed,
    Clamp,
    ClassifierFree,
    Denoiser,
    DPMSolverPP,
    EDMHeun,
    Noise,
    OnData,
    Plan,
    ReversibleHeun,
    SASolver,
    SDEDPMSolverPP,
    UniPC,
    V,
    coefficients,
)

pytestmark = pytest.mark.device

Given = dict[str, Any]  # what enters a run, by name
Runs = Callable[[Denoiser, Given], Tensor]


@pytest.fixture(params=["stand-in", pytest.param("cuda", marks=pytest.mark.gpu)])
def apart(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    device = Cuda() if request.param == "cuda" else StandIn()
    with device.running():
        yield device


def passes(run: Runs, given: dict[str, Tensor], device: Apart | None) -> Sequence[Tensor | None]:
    """The sample and its gradients at `given` and at all that is in the network, brought back to the host.

    On `device` (None: on the host) they are made twice: once to count the network calls of either pass, once watched.
    """
    torch.manual_seed(0)
    network: nn.Module = Network()
    if device is not None:
        given = {name: device.put(value) for name, value in given.items()}
        device.put_module(network)
        network.captured = device.put(network.captured)
    leaves = [*given.values(), *network.parameters(), network.captured]
    inputs = [leaf for leaf in leaves if leaf.requires_grad]
    watched, found, calls = Watched(network, device or StandIn()), list[Tensor | None](), [0, 0]
    for _ in range(1 if device is None else 2):
        watched.expect(calls[0])
        out = run(Denoiser(watched, PROCESS, V), given)
        calls[0] = watched.calls
        watched.expect(calls[1])
        grads = torch.autograd.grad(out.square().sum(), inputs, allow_unused=True)
        calls[1] = watched.calls
        watched.device.watch(False)
        found = [out.detach(), *grads]
    if device is None:
        return found
    return [None if value is None else device.fetch(value) for value in found]


def inputs_of(plan: Plan) -> dict[str, Tensor]:
    """Every kind of input, on the host."""
    torch.manual_seed(1)
    shapes = {"x": (5, 3), "scale": (plan.steps, 5, 3), "shift": (3,), "controls": (plan.steps, 5, 3)}
    if plan.slots:
        shapes["noise"] = (plan.slots, 5, 3)
    return {name: torch.randn(shape).requires_grad_() for name, shape in shapes.items()}


def everything_into(plan: Plan, gradient: Gradient, noise: Noise | None = None) -> Runs:
    def run(model: Denoiser, given: Given) -> Tensor:
        return sample(
            model, plan, given["x"], cond={"scale": PerStep(given["scale"]), "shifts": (given["shift"],)},
            noise=noise or given.get("noise"), controls=given["controls"], gradient=gradient,
        )  # fmt: skip

    return run


def assert_alike(run: Runs, given: dict[str, Tensor], device: Apart) -> None:
    close(passes(run, given, device), passes(run, given, None), device.tolerance)


# Where the host waits at every call today, by the file that waits. Strict: whoever mends it takes the line away.
WAITS = {
    "offload=True": "recorded.py and region.py: .to('cpu') without non_blocking",
    "REGION": "fingerprint.py, check_repeated: one float a replay",
    "Continuous": "fingerprint.py, check_repeated: one float a backward pass, after a call of its own",
    "AdjointDEIS": "fingerprint.py, check_repeated: one float a backward pass, after a call of its own",
}


def known(strategy: Gradient) -> Any:
    reasons = [why for name, why in WAITS.items() if name in str(strategy)]
    if not reasons:
        return strategy
    return pytest.param(
        strategy, marks=pytest.mark.xfail(reason=reasons[0], raises=RuntimeError, strict=True)
    )


@pytest.mark.parametrize("strategy", [known(s) for s in STRATEGIES], ids=str)
def test_every_strategy(apart, strategy):
    plan = plan_for(strategy, steps=6)
    assert_alike(everything_into(plan, strategy), inputs_of(plan), apart)


@pytest.mark.parametrize("method", thinned(every_method()), ids=str)
def test_every_method(apart, method):
    plan = method.plan(PROCESS, GRID)
    assert_alike(everything_into(plan, Checkpoint()), inputs_of(plan), apart)


@pytest.mark.parametrize("method", [DPMSolverPP(2), EDMHeun(), SDEDPMSolverPP(2), SASolver(2, 2)], ids=str)
def test_what_a_graph_is_made_of(apart, method):
    """A traced run reads nothing, after the last call neither: here from its first call to its last gradient."""
    plan = method.plan(PROCESS, GRID)

    def run(model: Denoiser, given: Given) -> Tensor:
        watched = model.network
        if isinstance(watched, Watched) and watched.last:
            watched.expect(plan.nfe + 1)  # it is told of no last call
        cond = {"scale": PerStep(given["scale"]), "shifts": (given["shift"],)}
        out, _ = in_one_graph(
            model, plan, given["x"], (), cond=cond, noise=given.get("noise"), controls=given["controls"],
            coefficients=None, gradient=Direct(),
        )  # fmt: skip
        return out

    assert_alike(run, inputs_of(plan), apart)


STACKED = torch.stack([torch.linspace(0.9, end, 5) for end in (0.1, 0.2, 0.3, 0.1, 0.2)], 1)


@pytest.mark.parametrize("strategy", [Direct(), Checkpoint(), Reversible()], ids=str)
def test_a_grid_for_each_sample(apart, strategy):
    plan = (ReversibleHeun() if isinstance(strategy, Reversible) else UniPC()).plan(PROCESS, STACKED)
    assert_alike(everything_into(plan, strategy), inputs_of(plan), apart)


@pytest.mark.parametrize("of_each", [False, True], ids=["one scale", "one for each sample"])
def test_classifier_free(apart, of_each):
    plan = plan_for(Checkpoint(), steps=6)

    def run(model: Denoiser, given: Given) -> Tensor:
        cond, null = ({"scale": given[name], "shifts": (given["shift"],)} for name in ("shift", "null"))
        guided = ClassifierFree(model, given["scale"], null)
        return sample(guided, plan, given["x"], cond=cond)

    scale = torch.linspace(1, 3, 5) if of_each else torch.tensor(2.0)
    given = {"x": torch.randn(5, 3), "shift": torch.randn(3), "null": torch.randn(3), "scale": scale}
    assert_alike(run, {name: value.requires_grad_() for name, value in given.items()}, apart)


def test_losses_along_the_way_learned_numbers_and_functions_of_the_data(apart):
    """Clamp goes by regions, as do learned numbers: plain autograd shows what the rest of a run does."""
    plan = DPMSolverPP(2).plan(PROCESS, GRID)
    thresholded = OnData(DPMSolverPP(2), Clamp()).plan(PROCESS, GRID)

    def cond(given: Given) -> Any:
        return {"scale": given["shift"], "shifts": (given["shift"],)}

    def along(model: Denoiser, given: Given) -> Tensor:
        return torch.cat(trajectory(model, plan, given["x"], [0, 3, 6], cond=cond(given)))

    def learned(model: Denoiser, given: Given) -> Tensor:
        numbers, start = given["numbers"], given["x"]
        return sample(model, plan, start, cond=cond(given), coefficients=numbers, gradient=Direct())

    def clamped(model: Denoiser, given: Given) -> Tensor:
        return sample(model, thresholded, given["x"], cond=cond(given), gradient=Direct())

    numbers = coefficients(plan, Denoiser(nn.Identity(), PROCESS, V))
    given = {"x": torch.randn(5, 3).requires_grad_(), "shift": torch.randn(3).requires_grad_()}
    for run in (along, clamped):
        assert_alike(run, given, apart)
    assert_alike(learned, {**given, "numbers": numbers.requires_grad_()}, apart)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("strategy", [Direct(), Checkpoint(), Reversible()], ids=str)
@pytest.mark.parametrize("on_cpu", [False, True], ids=["drawn there", "drawn on the host"])
def test_addressed_noise(strategy, on_cpu):
    """On CUDA only: the stand-in has no generator. What is drawn on the host is the host's, to the last bit."""
    method = ReversibleHeun() if isinstance(strategy, Reversible) else DDPM()
    plan, device = method.plan(PROCESS, GRID), Cuda()
    given = {name: value for name, value in inputs_of(plan).items() if name != "noise"}
    with device.running():
        found = passes(everything_into(plan, strategy, Addressed(7, on_cpu=on_cpu)), given, device)
    if on_cpu:
        close(found, passes(everything_into(plan, strategy, Addressed(7)), given, None), device.tolerance)


def test_the_stand_in_sees_what_a_device_would():
    """Reads, moves either way, masks and mixtures: the law above is worth as much as this one."""
    device = StandIn()
    with device.running():
        x, mask = device.put(torch.arange(3.0)), device.put(torch.tensor([True, False, True]))
        assert torch.equal(device.fetch(x + torch.ones((), device=x.device)), torch.tensor([1.0, 2, 3]))
        # a number on the host rides along with the call
        assert torch.equal(device.fetch(x * torch.tensor(2.0)), torch.tensor([0.0, 2, 4]))
        with pytest.raises(RuntimeError, match="on one device"):
            _ = x + torch.ones(3)
        device.watch(True)
        waits: list[Callable[[], Any]] = [
            lambda: float(x[0]), lambda: bool((x > 0).all()), lambda: x.tolist(), lambda: x.cpu(), lambda: x[mask],
            lambda: torch.ones(3).to(x), lambda: x.nonzero(), lambda: torch.tensor([1.0], device=x.device),
            lambda: x[torch.tensor([0])], lambda: torch.equal(x, x), lambda: device.put(x).copy_(torch.ones(3)),
        ]  # fmt: skip
        for k, wait in enumerate(waits):
            with pytest.raises(HostRead):
                wait()
                pytest.fail(f"not seen: {k}")
        x.double().add_(1).sum().view(1).expand(3).clone()  # none of this is
