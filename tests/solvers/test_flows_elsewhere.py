"""Velocities whose clock runs from noise to data, in a line each: flow_matching, torchcfm, SiT, JiT. Their loops
written out, value and gradient, and the denoiser of a Gaussian in closed form.
"""

import math
import pickle

import pytest
import torch
from elsewhere import Law, assert_denoises, check_line, start
from torch import nn

from pullback.solvers import (
    DATA,
    EDM,
    FLOW,
    NOISE,
    VP,
    ClassifierFree,
    CosineVP,
    Denoiser,
    DiffusionBridge,
    Ends,
    FlowEuler,
    FlowHeun,
    FlowMidpoint,
    Interpolant,
    Keywords,
    OnProcess,
    Passes,
    RectifiedFlow,
    Scaled,
    TimeFirst,
    UniformT,
    UserPair,
    WithEndpoint,
    convert,
    run,
)

FLIPPED = Scaled(-1.0, offset=1.0)  # t = 1 at the data
TIMES = (0.1, 0.5, 0.93)


# flow_matching: path/scheduler and solver/ode_solver.py
# ------------------------------------------------------------------------------------------


class CondOT:
    """x_t = t x_1 + (1 - t) x_0 with x_1 the data."""

    def __call__(self, t):  # (alpha, sigma, d_alpha, d_sigma)
        return t, 1 - t, torch.ones_like(t), -torch.ones_like(t)


class PolynomialConvex:
    def __call__(self, t, n=3.0):
        return t**n, 1 - t**n, n * t ** (n - 1), -n * t ** (n - 1)


class VPScheduler:
    def __call__(self, t, b=0.1, B=20.0):
        T = 0.5 * (1 - t) ** 2 * (B - b) + (1 - t) * b
        dT = -(1 - t) * (B - b) - b
        alpha, sigma = torch.exp(-0.5 * T), torch.sqrt(1 - torch.exp(-T))
        return alpha, sigma, -0.5 * dT * alpha, 0.5 * dT * torch.exp(-T) / sigma


class LinearVP:
    def __call__(self, t):
        sigma = (1 - t**2) ** 0.5
        return t, sigma, torch.ones_like(t), -t / sigma


class Cosine:
    def __call__(self, t):
        pi = math.pi
        return (
            torch.sin(pi / 2 * t),
            torch.cos(pi / 2 * t),
            pi / 2 * torch.cos(pi / 2 * t),
            -pi / 2 * torch.sin(pi / 2 * t),
        )


SCHEDULERS = {  # theirs, and the process that has it
    "CondOTScheduler": (CondOT(), RectifiedFlow()),
    "PolynomialConvexScheduler": (
        PolynomialConvex(),
        UserPair(lambda t: (1 - t) ** 3, lambda t: 1 - (1 - t) ** 3, 0.0, 1.0),
    ),
    "VPScheduler": (VPScheduler(), VP()),
    "LinearVPScheduler": (LinearVP(), UserPair(lambda t: 1 - t, lambda t: (t * (2 - t)).sqrt(), 0.0, 1.0)),
    "CosineScheduler": (Cosine(), CosineVP(0.0)),
}


class Velocity(Law):
    """(x, t, **extras) -> d x_t/dt, told t from 0 at the noise to 1 at the data."""

    def __init__(self, scheduler):
        super().__init__()
        self.scheduler = scheduler

    def forward(self, x, t, label=None):
        alpha, sigma, d_alpha, d_sigma = (v[:, None] for v in self.scheduler(t))
        shift = 0.0 if label is None else self.classes(label)
        return d_alpha * self.data(x, alpha, sigma, shift) + d_sigma * self.noise(x, alpha, sigma, shift)


def ode_solver(velocity_model, x_init, time_grid, method, **model_extras):
    """torchdiffeq's fixed steps on `velocity_model(x=x, t=t, **extras)`."""

    def field(t, x):
        return velocity_model(x=x, t=t.expand(len(x)), **model_extras)

    x = x_init
    for t, after in zip(time_grid[:-1], time_grid[1:], strict=True):
        h, k = after - t, field(t, x)
        if method == "midpoint":
            k = field(t + h / 2, x + h / 2 * k)
        x = x + h * k
    return x


@pytest.mark.parametrize("method, ours", [("euler", FlowEuler()), ("midpoint", FlowMidpoint())])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_flow_matching_s_models(name, method, ours):
    scheduler, process = SCHEDULERS[name]
    net, label, x = Velocity(scheduler), torch.tensor([0, 2, 1]), start()
    want = ode_solver(net, x, torch.linspace(0, 1, 6), method, label=label)
    model = Denoiser(net, process, -FLOW, call=Keywords("x", "t"), label=FLIPPED)
    check_line(model, ours.plan(process, UniformT(5)), want, x, [], {"label": label}, tolerance=1e-9)
    assert_denoises(model, net, TIMES, {"label": label}, net.classes(label).detach())


def test_flow_matching_s_guidance_and_change_of_scheduler():
    """CFGScaledModel, (1 + w) cond - w uncond of nested extras; ScheduleTransformedModel is OnProcess."""

    class CFGScaledModel(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, x, t, cfg_scale, label):
            conditional = self.model(x, t, label=label)
            return (1.0 + cfg_scale) * conditional - cfg_scale * self.model(x, t)

    net, label, x = Velocity(CondOT()), torch.tensor([0, 2, 1]), start()
    scale = torch.tensor(1.5, requires_grad=True)
    guided, plan = CFGScaledModel(net), FlowEuler().plan(RectifiedFlow(), UniformT(5))
    want = ode_solver(guided, x, torch.linspace(0, 1, 6), "euler", cfg_scale=scale, label=label)
    line = Denoiser(guided, RectifiedFlow(), -FLOW, call=Keywords("x", "t"), label=FLIPPED)
    check_line(line, plan, want, x, [scale], {"cfg_scale": scale, "label": label})
    plain = Denoiser(net, RectifiedFlow(), -FLOW, call=Keywords("x", "t"), label=FLIPPED)
    check_line(ClassifierFree(plain, 1 + scale, {}), plan, want, x, [scale], {"label": label})
    for process in (VP(), CosineVP(0.0), EDM()):
        assert_denoises(OnProcess(plain, process), net, (0.2, 0.5, 0.9))


# torchcfm: model(t, x, y)
# ------------------------------------------------------------------------------------------


class UNetModelWrapper(nn.Module):
    """torchcfm's argument order, for torchdyn's NeuralODE."""

    def __init__(self):
        super().__init__()
        self.net = Velocity(CondOT())

    def forward(self, t, x, y=None):
        while t.dim() > 1:
            t = t[:, 0]
        if t.dim() == 0:
            t = t.repeat(x.shape[0])
        return self.net(x, t, y)


def trajectory(vector_field, x, t_span, y):
    for t, after in zip(t_span[:-1], t_span[1:], strict=True):
        x = x + (after - t) * vector_field(t, x, y)
    return x


@pytest.mark.parametrize("call, named", [(TimeFirst(), False), (TimeFirst(Keywords()), True),
                                         (Keywords("x", "t"), True), (Keywords(x="x"), True)], ids=str)  # fmt: skip
def test_torchcfm_s_models(call, named):
    net, y, x = UNetModelWrapper(), torch.tensor([0, 2, 1]), start()
    want = trajectory(net, x, torch.linspace(0, 1, 6), y)
    model = Denoiser(net, RectifiedFlow(), -FLOW, call=call, label=FLIPPED)
    plan = FlowEuler().plan(RectifiedFlow(), UniformT(5))
    check_line(model, plan, want, x, [], {"y": y} if named else y)
    null = torch.tensor(3)
    free = ClassifierFree(model, 2.0, {"y": null} if named else null, Passes.ONE)
    doubled = lambda t, x, y: 2 * net(t, x, y) - net(t, x, null.expand(3))  # noqa: E731
    want = trajectory(doubled, x, torch.linspace(0, 1, 6), y)
    check_line(free, plan, want, x, [], {"y": y} if named else y)
    assert pickle.loads(pickle.dumps(call)) == call


@pytest.mark.parametrize(
    "call",
    [TimeFirst(), Keywords("x", "t"), lambda network, x, t, cond: network(t, x)],
    ids=["first", "named", "own"],
)
@pytest.mark.parametrize("module", [False, True])
def test_a_joint_state_goes_where_the_network_takes_it(call, module):
    """Its network sees a dict, wherever its arguments stand."""

    class Joint(nn.Module):
        def forward(self, t, x):
            return {"a": x["a"] * t[:, None], "b": x["b"].flip(1) - x["b"]}

    net, flow = Joint(), RectifiedFlow()
    state = {"a": torch.randn(3, 2), "b": torch.randn(3, 2, 2)}
    plan = FlowEuler().plan(flow, UniformT(4))
    got = run(Denoiser(net if module else net.forward, flow, FLOW, call=call), plan, state)
    want = run(Denoiser(lambda x, t: net(t, x), flow, FLOW), plan, state)
    assert all(torch.equal(got[key], want[key]) for key in state)


def test_a_name_given_twice_is_refused():
    model = Denoiser(lambda x, t: x, RectifiedFlow(), -FLOW, call=Keywords("x", "t"))
    with pytest.raises(TypeError, match="cond: got an entry 't', expected none of the name that Keywords"):
        model(torch.zeros(2, 3), torch.zeros(2), {"t": torch.zeros(2)})


# SiT and JiT: velocity and x-prediction on the straight path, t from noise to data
# ------------------------------------------------------------------------------------------


class SiT(nn.Module):
    """(x, t, y); `forward_with_cfg` guides the first three channels of a doubled batch."""

    def __init__(self):
        super().__init__()
        self.net = Velocity(CondOT())

    def forward(self, x, t, y):
        return self.net(x, t, y)

    def forward_with_cfg(self, x, t, y, cfg_scale):
        half = x[: len(x) // 2]
        model_out = self.forward(torch.cat([half, half], dim=0), t, y)
        eps, rest = model_out[:, :3], model_out[:, 3:]
        cond_eps, uncond_eps = torch.split(eps, len(eps) // 2, dim=0)
        half_eps = uncond_eps + cfg_scale * (cond_eps - uncond_eps)
        return torch.cat([torch.cat([half_eps, half_eps], dim=0), rest], dim=1)


def test_sit_with_and_without_its_guidance():
    """The fourth channel is not guided there: a scale of 1."""
    net, y, x, flow = SiT(), torch.tensor([0, 2, 1]), start(), RectifiedFlow()
    times = torch.linspace(0, 0.99, 6)  # Heun would call at the data itself, where this network divides by 0
    plan = FlowHeun().plan(flow, UniformT(5, end=0.01))

    def heun(field, z):
        for t, after in zip(times[:-1], times[1:], strict=True):
            h, k = after - t, field(z, t.expand(len(z)))
            z = z + h / 2 * (k + field(z + h * k, after.expand(len(z))))
        return z

    model = Denoiser(net, flow, -FLOW, label=FLIPPED)
    check_line(model, plan, heun(lambda z, t: net(z, t, y), x), x, [], y)

    both, none = torch.cat([x, x]), torch.full_like(y, 3)
    want = heun(lambda z, t: net.forward_with_cfg(z, t, torch.cat([y, none]), 4.0), both)[:3]
    channels = torch.tensor([[4.0, 4.0, 4.0, 1.0]])  # of states (B, C); of images it would be (C, 1, 1)
    ours = ClassifierFree(model, channels, torch.tensor(3), Passes.ONE)
    as_it_is = Denoiser(
        net, flow, -FLOW, label=FLIPPED,
        call=lambda net, x, t, y: net.forward_with_cfg(
            torch.cat([x, x]), torch.cat([t, t]), torch.cat([y, torch.full_like(y, 3)]), 4.0)[: len(x)],
    )  # fmt: skip
    check_line(as_it_is, plan, want, x, [], y)
    check_line(ours, plan, want, x, [], y)


def test_jit_predicts_data():
    """Li and He 2025: net(z, t, y) -> x, v = (x - z)/(1 - t) below its clamp; Heun, the last step Euler's."""

    class JiT(Law):
        def forward(self, z, t, y):
            return self.data(z, t[:, None], 1 - t[:, None], self.classes(y))

    net, y, x, flow = JiT(), torch.tensor([0, 2, 1]), start(), RectifiedFlow()
    times = torch.linspace(0, 1, 7)
    v = lambda z, t: (net(z, t.expand(3), y) - z) / (1 - t)  # noqa: E731
    z = x
    for t, after in zip(times[:-1], times[1:], strict=True):
        k = v(z, t)
        if after < 1:
            k = (k + v(z + (after - t) * k, after)) / 2
        z = z + (after - t) * k
    model = Denoiser(net, flow, DATA, label=FLIPPED)
    plan = Ends(FlowHeun(), tail=(FlowEuler(),)).plan(flow, UniformT(6))
    check_line(model, plan, z, x, [], y)
    assert_denoises(model, net, TIMES, y, net.classes(y).detach())


# the negative of a prediction
# ------------------------------------------------------------------------------------------


def test_the_negative_of_a_prediction():
    back = -FLOW
    assert (
        back == -FLOW
        and back != FLOW
        and -back is FLOW
        and back.name == "-FLOW"
        and hash(back) == hash(-FLOW)
    )
    assert pickle.loads(pickle.dumps(-FLOW)) == -FLOW
    x, u = torch.randn(2, 3, 4)
    for process in (VP(), RectifiedFlow(), EDM()):
        for t in (0.2, 0.7):
            want = convert(-u, x, FLOW, DATA, process, t)
            assert torch.allclose(convert(u, x, -FLOW, DATA, process, t), want, rtol=1e-12, atol=1e-12)
            assert torch.equal(convert(u, x, -FLOW, FLOW, process, t), -u)
            assert torch.allclose(convert(want, x, DATA, -FLOW, process, t), u, rtol=1e-9, atol=1e-9)
    between = Interpolant(lambda t: 1 - t, lambda t: t, lambda t: (2 * t * (1 - t)).sqrt())
    plan = FlowHeun().plan(between, UniformT(4))
    towards, away = (
        Denoiser(lambda x, t, s=s: s * (x.sin() + t[:, None]), between, kind)
        for s, kind in ((1, FLOW), (-1, -FLOW))
    )
    assert torch.allclose(run(towards, plan, x), run(away, plan, x), rtol=1e-13, atol=1e-13)


def test_what_an_endpoint_makes_of_a_negative_is_refused():
    with pytest.raises(
        ValueError, match="denoiser.prediction: got -NOISE, expected NOISE, DATA, V, FLOW or SCORE"
    ):
        WithEndpoint(Denoiser(lambda x, t: x, DiffusionBridge(VP()), -NOISE))
