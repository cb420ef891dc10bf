"""Every public model around every kind of network that users bring: what is around must change nothing of it."""

import copy
import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from scheduler_cases import Case
from torch import nn

import pullback.solvers
from pullback.adjoint import Checkpoint, Direct, Mechanism, PerStep, sample
from pullback.solvers import (
    DDPM,
    EDM,
    FLOW,
    NOISE,
    SCORE,
    SSCS,
    VP,
    Addressed,
    CholeskyNoise,
    ClassifierFree,
    Clock,
    CosineVP,
    Denoiser,
    DPMSolverPP,
    DriftDiffusion,
    EDMHeun,
    Endpoint,
    FlowHeun,
    Interpolant,
    Karras,
    LearnedVariance,
    MeanReverting,
    Model,
    OnProcess,
    PhaseSpaceLangevin,
    Plan,
    PosteriorVariance,
    Preconditioned,
    RectifiedFlow,
    Rising,
    StochasticFlow,
    StratonovichHeun,
    TwoHeads,
    UniformT,
    UserPair,
    VEPreconditioning,
    WithEndpoint,
    plan_from_scheduler,
)

EXACT = [Direct(), Checkpoint(), Checkpoint(mechanism=Mechanism.REGION)]
INTERPOLANT = Interpolant(lambda t: 1 - t, lambda t: t, lambda t: (2 * t * (1 - t)).sqrt())
TURN = UserPair(torch.cos, torch.sin, 0.0, math.pi / 2)
PHASE = PhaseSpaceLangevin(t_min=0.05)
INSIDE = UniformT(2, 0.95, 0.05)


class Net(nn.Module):
    """(B, 4, 1, 1) in and out; conditioning nested in dicts and lists, with None among it."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.enter, self.leave, self.told = nn.Linear(5, 8), nn.Linear(8, 4), nn.Linear(3, 8)
        self.drop = nn.Dropout(dropout)

    def forward(self, x, t, cond=None):
        t = t[:, None].to(x)
        h = torch.tanh(self.enter(torch.cat([x.flatten(1), t / (1 + t.abs())], 1)))
        if cond is not None:
            h = h + self.told(cond["text"][0].to(h))
        return self.leave(self.drop(h)).reshape(x.shape)


class Twice(nn.Module):
    """Two answers of one network, as a pair or along the channels."""

    def __init__(self, network: Callable[..., Any], channels: bool) -> None:
        super().__init__()
        self.network, self.channels = network, channels

    def forward(self, x, t, *cond):
        out = self.network(x, t, *cond)
        return torch.cat([out, -out], 1) if self.channels else (out, -out)


def as_it_is(x: torch.Tensor, cond: Any) -> Any:
    return cond


@dataclass(frozen=True, eq=False)
class Around:
    """A model around a network, a plan for it, and how a run's conditioning is given."""

    model: Callable[..., Model]
    plan: Plan
    told: Callable[[torch.Tensor, Any], Any] = as_it_is
    scale: float = 1.0

    def run(self, network, x, cond=None, strategy: Any = EXACT[0], **more):
        noise = Addressed(0) if self.plan.slots else None
        model = self.model(network, **more)
        return sample(model, self.plan, x, cond=self.told(x, cond), noise=noise, gradient=strategy)

    def start(self, batch=3, dtype=torch.float64):
        return (self.scale * torch.randn(3, 4, 1, 1, generator=torch.Generator().manual_seed(0)))[:batch].to(
            dtype
        )


class OfScheduler(Around):
    """What a scheduler of diffusers is found to be, at its first use."""

    def __init__(self, case: Case) -> None:
        vars(self).update(case=case, told=as_it_is, scale=1.0)

    @functools.cached_property
    def found(self) -> Any:
        return plan_from_scheduler(vars(self)["case"].scheduler(), vars(self)["case"].steps)

    @property
    def plan(self):  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.found.plan

    def model(self, network, **more):  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.found.denoiser(network, **more)


def guided(network, **more):
    return ClassifierFree(Denoiser(network, VP(), NOISE, **more), 2.0, {"text": [torch.zeros(3), None]})


def heads(network, plan=None, **more):
    model = TwoHeads(Twice(network, channels=False), INTERPOLANT, **more)
    return model if plan is None else model.on(plan)


def learned(network, **more):
    return LearnedVariance(Twice(network, channels=True), VP(), NOISE, **more)


class Field(nn.Module):
    """A drift of two numbers, and a diffusion."""

    def __init__(self, network: Callable[..., Any]) -> None:
        super().__init__()
        self.network = network

    def forward(self, x, t, *cond):
        return self.network(torch.cat([x, x], 1), t, *cond)[:, :2], 0.1 * x


def drifting(network, **more):
    return Denoiser(DriftDiffusion(Field(network)), Clock(0.0, 1.0), FLOW, **more)


REVERTING = MeanReverting(0.3)
NOISY = StochasticFlow(lambda t: t * (1 - t)).plan(INTERPOLANT, INSIDE)
AROUND = {
    "Denoiser": Around(
        lambda net, **more: Denoiser(net, VP(), NOISE, **more), DPMSolverPP(2).plan(VP(), INSIDE)
    ),
    "ClassifierFree": Around(
        guided,
        DPMSolverPP(2).plan(VP(), INSIDE),
        lambda x, cond: {"text": [torch.ones(3).to(x), None]} if cond is None else cond,
    ),
    "Preconditioned": Around(
        lambda net, **more: Preconditioned(net, EDM(), **more), EDMHeun().plan(EDM(), Karras(2)), scale=80.0
    ),
    "OnProcess": Around(
        lambda net, **more: OnProcess(Denoiser(net, CosineVP(), FLOW, **more), RectifiedFlow()),
        FlowHeun().plan(RectifiedFlow(), INSIDE),
    ),
    "OnProcess of a pair": Around(
        lambda net, **more: OnProcess(Denoiser(net, TURN, FLOW, **more), VP()),
        DPMSolverPP(2).plan(VP(), INSIDE),
    ),
    "TwoHeads": Around(heads, FlowHeun().plan(INTERPOLANT, INSIDE)),
    "TwoHeads with noise": Around(functools.partial(heads, plan=NOISY), NOISY),
    "LearnedVariance": Around(learned, DDPM(PosteriorVariance.LEARNED).plan(VP(), INSIDE)),
    "WithEndpoint": Around(
        lambda net, **more: WithEndpoint(Denoiser(net, REVERTING, FLOW, **more)),
        DPMSolverPP(2).plan(REVERTING, INSIDE),
        lambda x, cond: Endpoint(torch.full_like(x, 0.5), cond),
    ),
    "position and momentum": Around(
        lambda net, **more: Denoiser(net, PHASE, SCORE, call=CholeskyNoise(PHASE), **more),
        SSCS(2).plan(PHASE, UniformT(2)),
    ),
    "DriftDiffusion": Around(drifting, StratonovichHeun().plan(Clock(0.0, 1.0), Rising(UniformT(2)))),
    "Euler of diffusers": OfScheduler(Case("EulerDiscrete", {"prediction_type": "v_prediction"}, 2)),
    "EDM of diffusers": OfScheduler(Case("EDMEuler", {}, 2)),
}
swept = pytest.mark.parametrize("around", AROUND.values(), ids=AROUND.keys())


def test_every_public_model_is_here():
    public = {
        name
        for name, value in vars(pullback.solvers).items()
        if inspect.isclass(value) and issubclass(value, Model) and not inspect.isabstract(value)
    }
    assert public and public <= set(AROUND)


def grads(around, network, inputs, cond, strategy):
    x = around.start().requires_grad_()
    torch.manual_seed(7)
    out = around.run(network, x, cond, strategy)
    torch.manual_seed(99)  # what a replay draws is not what happens to come next
    return [out.detach(), *torch.autograd.grad(out.square().sum(), [x, *inputs])]


def assert_same(found, wanted, tolerance=1e-10):
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == b.dtype and float((a - b).detach().abs().max()) <= tolerance * float(
            b.detach().abs().max()
        )


@swept
@pytest.mark.parametrize("each", [False, True], ids=["for the run, dropout", "per step"])
def test_strategies_agree_on_nested_conditioning_and_dropout(around, each):
    """By regions too, inside whose hooks torch.func takes no derivative of a process."""
    net, steps = Net(0.0 if each else 0.4), around.plan.steps
    text = torch.randn(*([steps] if each else []), 3, 3, requires_grad=True)
    cond = {"text": [PerStep(text) if each else text, None], "none": None}
    inputs = [text, net.enter.weight, net.leave.bias]
    wanted, *others = [grads(around, net, inputs, cond, strategy) for strategy in EXACT]
    assert all(value.any() for value in wanted)
    for found in others:
        assert_same(found, wanted)


@swept
def test_any_callable_is_the_network(around):
    """Value, gradient, and the parameters and modules that are found behind the model."""
    net = Net()
    wanted = grads(around, net, [net.enter.weight], None, EXACT[1])
    ways = {
        "lambda": lambda *args: net(*args),
        "partial": functools.partial(lambda network, *args: network(*args), net),
        "a method": net.forward,
        "DataParallel": nn.DataParallel(net),
    }
    if around in (AROUND["Preconditioned"], AROUND["TwoHeads with noise"]):  # compiling takes a second each
        ways["compiled"] = torch.compile(net, backend="eager")
    for network in ways.values():
        assert_same(grads(around, network, [net.enter.weight], None, EXACT[1]), wanted)
        model = around.model(network)
        assert {id(p) for p in net.parameters()} <= {id(p) for p in model.parameters()}
        assert {net.enter, net.leave} <= {part for module in model.networks() for part in module.modules()}


@swept
def test_autocast_around_the_run_is_autocast_around_the_network(around):
    """What the library multiplies by itself is not cast."""
    net = Net().float()

    def inside(*args):
        with torch.autocast("cpu", torch.bfloat16):
            return net(*args)

    x = around.start(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        got = around.run(net, x)
    assert_same([got], [around.run(inside, x)], 1e-6)


@swept
def test_a_network_in_bfloat16_costs_its_own_precision_alone(around):
    """dtype= casts what goes in and comes out of the network, not the arithmetic around it."""
    low = copy.deepcopy(Net()).to(torch.bfloat16)

    def cast(x, t, *cond):
        return low(x.to(torch.bfloat16), t, *cond).to(x.dtype)

    x = around.start(dtype=torch.float32)
    # an increment of the Brownian motion is an input of the network `DriftDiffusion`
    tolerance = 2e-2 if around is AROUND["DriftDiffusion"] else 1e-6
    assert_same([around.run(low, x, dtype=torch.bfloat16)], [around.run(cast, x)], tolerance)


@swept
def test_batches_of_none_and_one_and_strides(around):
    net = Net()
    whole = around.run(net, around.start()).detach()
    for batch in (0, 1):
        out = around.run(net, around.start(batch))
        assert out.shape == (batch, 4, 1, 1)
        assert torch.allclose(out, whole[:batch], rtol=1e-12, atol=1e-12 * float(whole.abs().max()))
    strided = torch.stack([around.start(), around.start()], -1)[..., 0]
    assert_same([around.run(net, strided)], [whole], 1e-12)


@swept
def test_torch_func_goes_through(around):
    net, x = Net(), around.start()
    _, wanted = grads(around, net, [], None, EXACT[0])

    def loss(x):
        return around.run(net, x).square().sum()

    direction = torch.randn_like(x)
    assert_same([torch.func.grad(loss)(x)], [wanted])
    assert_same([torch.func.jvp(loss, (x,), (direction,))[1]], [(wanted * direction).sum()])
    both = torch.func.vmap(lambda x: around.run(net, x), randomness="same")(torch.stack([x, 0.5 * x]))
    assert_same([both[1]], [around.run(net, 0.5 * x)])


@swept
def test_copies_are_whole(around):
    """A deep copy gives the same samples and shares no weight."""
    net, x = Net(), around.start()
    model = around.model(net)
    again = copy.deepcopy(model)
    shared = {id(p) for p in model.parameters()} & {id(p) for p in again.parameters()}
    noise = Addressed(0) if around.plan.slots else None
    ends = [
        sample(m, around.plan, x, cond=around.told(x, None), noise=noise, gradient=None)
        for m in (model, again)
    ]
    assert torch.equal(*ends) and not shared


# what these have of their own: their arguments, or what they are called with, leave no room for another
OWN_CALL, OWN_LABEL = {"position and momentum"}, {"Preconditioned", "Euler of diffusers", "EDM of diffusers"}


@pytest.mark.parametrize("name", AROUND)
def test_what_is_asked_of_the_denoiser_inside_is_asked_of_it(name, monkeypatch):
    """Declared modules, another way to call, other labels, and times at which it cannot be called."""
    around, net, hidden, asked = AROUND[name], Net(), nn.Linear(2, 2), []

    def call(network, x, t, cond):
        asked.append("call")
        return network(x, t) if cond is None else network(x, t, cond)

    def label(t, process):
        asked.append("label")
        return t

    more: dict[str, Any] = {} if name in OWN_CALL else {"call": call}
    more |= {} if name in OWN_LABEL else {"label": label}
    around.run(net, around.start(), **more)
    assert set(asked) == set(more)
    model = around.model(net, modules=[hidden], **more)
    assert hidden in list(model.networks())
    monkeypatch.setattr(Denoiser, "check_times", lambda self, times: asked.append("times"))
    model.check_times(torch.tensor([0.5]))
    assert "times" in asked or isinstance(
        model, Preconditioned
    )  # which refuses by itself what its label cannot say


def test_another_network_is_called_as_the_first_was():
    """`Preconditioned.around` keeps everything but the network."""
    hidden, seen = nn.Linear(2, 2), []

    def call(network, x, t, cond):
        seen.append(x.dtype)
        return network(x, t)

    first = Preconditioned(Net(), EDM(), VEPreconditioning(), torch.bfloat16, call=call, modules=[hidden])
    low = Net().to(torch.bfloat16)
    again, x = first.around(low), AROUND["Preconditioned"].start(dtype=torch.float32)
    wanted = Preconditioned(low, EDM(), VEPreconditioning(), torch.bfloat16)
    t = torch.full((3,), 2.0, dtype=torch.float32)
    assert torch.equal(again(x, t), wanted(x, t)) and seen == [torch.bfloat16]
    assert hidden in list(again.networks())
