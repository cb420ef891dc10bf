"""Parallel: value and gradient are the sequential run's, order k is the Neumann series cut after k, or a refusal."""

import itertools

import pytest
import torch
from everything import assert_same, everything
from problems import MIXTURE, PROCESS, every_method
from strategies import close, network
from torch import nn

from pullback.adjoint import (
    Audit,
    Checkpoint,
    Direct,
    Parallel,
    PerStep,
    Swept,
    Truncated,
    Way,
    audit,
    sample,
    trajectory,
)
from pullback.adjoint.parallel.rows import Rows
from pullback.adjoint.parallel.secants import Secants
from pullback.solvers import (
    DATA,
    DDIM,
    DDPM,
    FLOW,
    NOISE,
    Addressed,
    ClassifierFree,
    Denoiser,
    DPMSolverPP,
    FlowMidpoint,
    GivenNoise,
    OnData,
    OnDataOnly,
    RectifiedFlow,
    SASolver,
    UniformLambda,
    UniformT,
    UniPC,
)

EXACT = Parallel(tol=0.0)  # until nothing changes
WINDOWS = [EXACT, Parallel(tol=0.0, window=2), Parallel(tol=0.0, window=3, memory=0, base=DATA)]
GRID = UniformT(4, start=0.9, end=0.05)


@pytest.mark.parametrize("strategy", WINDOWS, ids=str)
@pytest.mark.parametrize("method", [DPMSolverPP(2), DDPM(), UniPC(3)], ids=str)
def test_everything_is_checkpoints(method, strategy):
    """x, conditioning by step and nested, controls, noise, parameters, a captured leaf."""
    assert_same(everything(method, strategy), everything(method, Checkpoint()), 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", WINDOWS[1:], ids=str)
def test_everything_is_checkpoints_for_every_method(strategy):
    for method in every_method():
        assert_same(everything(method, strategy), everything(method, Checkpoint()), 1e-9)


def test_a_gradient_of_the_gradient():
    method = DPMSolverPP(2)
    assert_same(everything(method, EXACT, order=2), everything(method, Checkpoint(), order=2), 1e-8)


class Swirl(nn.Module):
    """A joint state of two leaves."""

    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, x, t, cond):
        both = self.net(torch.cat([x["a"], x["b"][:, None]], 1), t) * cond[:, None]
        return {"a": both[:, :2], "b": both[:, 2]}


def gradients(model, plan, x, strategy, at=None, **given):
    """Values and gradients of all that is given."""
    wanted = [v for v in (x, *given.values()) if isinstance(v, torch.Tensor) and v.is_floating_point()]
    wanted = [v.requires_grad_() for v in wanted] + list(model.parameters())
    outs = (
        [sample(model, plan, x, gradient=strategy, **given)]
        if at is None
        else trajectory(model, plan, x, at, gradient=strategy, **given)
    )
    loss = torch.stack([out.square().sum() * (k + 1) for k, out in enumerate(outs)]).sum()
    return [*outs, *torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)]


def test_plans_of_every_kind():
    """Per-sample grids, losses along the way, thresholds on the data, a call of two registers, learned variances,
    stacked guidance, a truncated run, several calls a step on a flow.
    """
    torch.manual_seed(0)
    model, x = Denoiser(network(), PROCESS, DATA), torch.randn(3, 3)
    by_sample = torch.stack([torch.linspace(0.9, end, 5) for end in (0.05, 0.1, 0.3)], 1)
    clamp = OnData(DPMSolverPP(2), _Clamp()).plan(PROCESS, GRID)
    raw = OnDataOnly(DDIM(), _Clamp()).plan(PROCESS, GRID)
    flow = Denoiser(network(), RectifiedFlow(), NOISE)
    cases = [
        (model, DPMSolverPP(2).plan(PROCESS, by_sample), None, {}),
        (model, DDIM(1.0).plan(PROCESS, by_sample), None, {"noise": torch.randn(4, 3, 3)}),
        (model, DPMSolverPP(2).plan(PROCESS, GRID), [0, 2, 4], {"controls": 0.1 * torch.randn(4, 3, 3)}),
        (model, clamp, None, {}),
        (model, raw, None, {}),
        (flow, FlowMidpoint().plan(RectifiedFlow(), GRID), None, {}),
        (model, SASolver(tau=1.0).plan(PROCESS, GRID), [2, 4], {"noise": Addressed(3)}),
    ]
    for which, plan, at, given in cases:
        for strategy in WINDOWS[1:]:
            got = gradients(which, plan, x.clone(), strategy, at, **given)
            assert_same(got, gradients(which, plan, x.clone(), Checkpoint(), at, **given), 1e-9)


def test_guidance_and_truncation():
    torch.manual_seed(0)
    x = torch.randn(2, 3)
    guided, plan = ClassifierFree(Denoiser(_Labelled(), PROCESS, DATA), 3.0), UniPC(2).plan(PROCESS, GRID)
    cond = torch.randn(2, 3)
    got = gradients(guided, plan, x.clone(), EXACT, cond=cond)
    assert_same(got, gradients(guided, plan, x.clone(), Direct(), cond=cond), 1e-9)
    model = Denoiser(network(), PROCESS, DATA)
    with pytest.warns(UserWarning, match="only the last 2 of 4"):
        got = gradients(model, plan, x.clone(), Truncated(2, inner=EXACT))
    with pytest.warns(UserWarning, match="only the last 2 of 4"):
        assert_same(got, gradients(model, plan, x.clone(), Truncated(2)), 1e-9)


def test_joint_states():
    torch.manual_seed(0)
    model, plan = Denoiser(Swirl(), PROCESS, DATA), OnData(DPMSolverPP(2), _EachClamp()).plan(PROCESS, GRID)
    found = []
    for strategy in (*WINDOWS, Direct()):
        x = {"a": torch.ones(2, 2, requires_grad=True), "b": torch.full((2,), -0.5, requires_grad=True)}
        cond = PerStep(torch.linspace(0.5, 1.5, 8).reshape(4, 2).requires_grad_())
        out = sample(model, plan, x, cond=cond, gradient=strategy)
        loss = out["a"].square().sum() + out["b"].sin().sum()
        found.append(torch.autograd.grad(loss, [x["a"], x["b"], cond.values, *model.parameters()]))
    for got in found[:-1]:
        assert_same(got, found[-1], 1e-9)


class _Clamp:
    """Hashable, as a function of predictions must be here."""

    def __call__(self, x):
        return x.clamp(-0.4, 0.4) + 0.1 * x


class _EachClamp:
    def __call__(self, x):
        return {name: value.tanh() for name, value in x.items()}


class _Labelled(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, x, t, cond=None):
        return self.net(x if cond is None else x + cond, t)


@pytest.mark.parametrize("window", [None, 7])
def test_the_error_is_about_the_tolerance_and_the_sweeps_are_few(window):
    said: list[Swept] = []
    plan = DPMSolverPP(2).plan(PROCESS, UniformLambda(40, start=1.0, end=0.03))
    x, model = torch.randn(16, 2, generator=torch.Generator().manual_seed(0)), MIXTURE.denoiser(PROCESS)
    want = gradients(model, plan, x.clone(), Checkpoint())
    for tol in (1e-2, 1e-4, 1e-6):
        said.clear()
        got = gradients(model, plan, x.clone(), Parallel(window, tol, observe=said.append))
        value, gradient = (
            float(((a - b).norm(dim=1) / b.norm(dim=1)).max()) for a, b in zip(got, want, strict=True)
        )
        assert value < 3 * tol and gradient < 50 * tol, (tol, value, gradient)
        assert [each.way for each in said] == [Way.FORWARD, Way.BACKWARD]
        if window is None:
            assert max(each.sweeps for each in said) <= 10
        calls, vjps = Parallel(window, tol).cost(plan)
        assert said[0].sweeps + 1 < calls and said[1].sweeps < vjps


def test_a_sample_is_what_it_is_alone():
    """Windows, tolerances and sweeps are each sample's own."""
    plan = UniPC(2).plan(PROCESS, UniformLambda(12, start=1.0, end=0.03))
    x, model = 2 * torch.randn(4, 2, generator=torch.Generator().manual_seed(1)), MIXTURE.denoiser(PROCESS)
    strategy = Parallel(window=5, tol=1e-2)
    whole = gradients(model, plan, x.clone(), strategy)
    for k in range(4):
        alone = gradients(model, plan, x[k : k + 1].clone(), strategy)
        close([value[k : k + 1] for value in whole], alone, 1e-12)


def _ddim(plan):
    """x' = (alpha'/alpha) x + (sigma' - sigma alpha'/alpha) eps: the two numbers of every step, and t."""
    table = []
    for t, s in itertools.pairwise(plan.times):
        p = float(PROCESS.alpha(s) / PROCESS.alpha(t))
        table.append((p, float(PROCESS.sigma(s) - p * PROCESS.sigma(t)), t))
    return table


@pytest.mark.parametrize("order", [0, 1, 2])
def test_order_k_is_the_neumann_series_cut_after_k(order):
    """Against a loop that carries the cotangents of paths through 0, 1, .. k Jacobians apart."""
    torch.manual_seed(0)
    net, x = network(), torch.randn(2, 3, requires_grad=True)
    model, plan = Denoiser(net, PROCESS, NOISE), DDIM().plan(PROCESS, GRID)
    strategy = Parallel(tol=0.0, base=NOISE, memory=0, backward_sweeps=order)
    wanted = [x, *net.parameters()]
    out = sample(model, plan, x, gradient=strategy)
    got = torch.autograd.grad(out.square().sum(), wanted)

    table, states, state = _ddim(plan), [], x.detach()
    for p, q, t in table:
        states.append(state)
        state = (p * state + q * net(state, torch.full((2,), t))).detach()
    paths = [2 * state] + [torch.zeros_like(state) for _ in range(order)]  # by the Jacobians passed
    weights = [torch.zeros_like(w) for w in net.parameters()]
    for (p, q, t), at in reversed(list(zip(table, states, strict=True))):
        at = at.requires_grad_()
        eps = net(at, torch.full((2,), t))
        for w, g in zip(
            weights,
            torch.autograd.grad(eps, list(net.parameters()), q * sum(paths), retain_graph=True),
            strict=True,
        ):
            w += g
        through = [torch.autograd.grad(eps, at, q * each, retain_graph=True)[0] for each in paths[:-1]]
        paths = [p * each + (through[k - 1] if k else 0) for k, each in enumerate(paths)]
    close(got, [sum(paths), *weights], 1e-11)


def test_order_0_is_drtune():
    """Stop-gradient on the network's input at every step, as its loop is written."""
    torch.manual_seed(0)
    net, x = network(), torch.randn(2, 3)
    model, plan = Denoiser(net, PROCESS, NOISE), DDIM().plan(PROCESS, GRID)
    strategy = Parallel(tol=0.0, base=NOISE, backward_sweeps=0)
    got = torch.autograd.grad(
        sample(model, plan, x, gradient=strategy).square().sum(), list(net.parameters())
    )
    state = x
    for p, q, t in _ddim(plan):
        state = p * state + q * net(state.detach(), torch.full((2,), t))
    close(got, torch.autograd.grad(state.square().sum(), list(net.parameters())), 1e-11)


def test_two_leaps_at_order_1_are_the_nested_gradient():
    """LeapAlign's form on two leaps of a flow, x_k -> x_j -> x_0: both terms of the direct path and the nested one,

    t_j (dv_j/dtheta)^T g + (t_k - t_j) (dv_k/dtheta)^T (I - t_j J_j)^T g,   written out, with g = dL/dx_0.
    """
    torch.manual_seed(0)
    net, x, process, (t_k, t_j) = network(), torch.randn(2, 3), RectifiedFlow(), (0.9, 0.4)
    plan = DDIM().plan(process, torch.tensor([t_k, t_j, 0.0]))
    strategy = Parallel(tol=0.0, base=FLOW, memory=0, backward_sweeps=1)
    model, weights = Denoiser(net, process, FLOW), list(net.parameters())
    got = torch.autograd.grad(sample(model, plan, x, gradient=strategy).square().sum(), weights)

    v_k = net(x, torch.full((2,), t_k))
    x_j = (x - (t_k - t_j) * v_k).detach().requires_grad_()
    v_j = net(x_j, torch.full((2,), t_j))
    g = 2 * (x_j - t_j * v_j).detach()
    (through,) = torch.autograd.grad(v_j, x_j, g, retain_graph=True)
    last = torch.autograd.grad(v_j, weights, -t_j * g)
    first = torch.autograd.grad(v_k, weights, -(t_k - t_j) * (g - t_j * through))
    close(got, [a + b for a, b in zip(first, last, strict=True)], 1e-11)


def test_audit_takes_it():
    model, x = MIXTURE.denoiser(PROCESS), torch.randn(4, 2, requires_grad=True)
    found: Audit = audit(
        model, DDIM().plan(PROCESS, GRID), x, lambda y: y.square().sum(1), {"parallel": Parallel()}
    )
    assert "parallel" in str(found)


def test_given_noise_is_a_source_too():
    model, plan, x = MIXTURE.denoiser(PROCESS), DDPM().plan(PROCESS, GRID), torch.randn(4, 2)
    draws = torch.randn(4, 4, 2)
    got = gradients(model, plan, x.clone(), EXACT, noise=GivenNoise(draws))
    assert_same(got, gradients(model, plan, x.clone(), Checkpoint(), noise=draws.clone())[:2], 1e-9)


def test_a_state_at_infinity_teaches_nothing():
    """Not even where the network is finite there."""
    rows, zero = Rows(*torch.zeros(3, 1, dtype=torch.long)), torch.zeros(1, 2)
    known = Secants(1, 1, 2, (2, 2), zero)
    known.learn(rows, torch.tensor([[torch.inf, 0.0]]), torch.ones(1, 2))
    assert torch.equal(known.added(zero.clone(), 0, torch.ones(1, 2)), zero)
