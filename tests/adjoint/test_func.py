"""torch.func and forward-mode AD: right with `Direct`, refused by name everywhere else."""

import pytest
import torch
from problems import PROCESS
from strategies import STRATEGIES, network, plan_for
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

from pullback.adjoint import Auto, Direct, linearised, sample
from pullback.solvers import (
    DATA,
    DDPM,
    FLOW,
    NOISE,
    VP,
    Addressed,
    Denoiser,
    DPMSolverPP,
    FlowEuler,
    RectifiedFlow,
    UniformT,
    UserPair,
    V,
)

GRID = UniformT(4, start=0.9, end=0.05)


class Conditioned(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x, t, cond):
        return torch.tanh(self.inner(x, t)) * cond


@pytest.fixture(params=["trained", "frozen"])
def net(request):
    return Conditioned(network()).requires_grad_(request.param == "trained")


@pytest.fixture(params=[DPMSolverPP(2), DDPM()], ids=str)
def run(request, net):
    """(x, cond, noise) -> sample, by `Direct`."""
    plan = request.param.plan(PROCESS, GRID)

    def call(x, cond, noise=Addressed(0), gradient=Direct()):
        return sample(Denoiser(net, PROCESS, DATA), plan, x, cond=cond, noise=noise, gradient=gradient)

    return call


def close(a, b):
    return torch.allclose(a, b, rtol=1e-11, atol=1e-12)


def test_every_transform_with_direct(run):
    """Against torch.autograd on the same run."""
    x, cond, v = torch.randn(2, 3), torch.randn(3), torch.randn(2, 3)
    jac_x, jac_c = torch.autograd.functional.jacobian(run, (x, cond))
    assert close(
        vjp(lambda x: run(x, cond), x)[1](v)[0], torch.einsum("bi,bijk->jk", v, jac_x.reshape(2, 3, 2, 3))
    )
    assert close(jvp(lambda x: run(x, cond), (x,), (v,))[1], torch.einsum("bijk,jk->bi", jac_x, v))
    for jacobian in (jacrev, jacfwd):
        assert close(jacobian(lambda x: run(x, cond))(x), jac_x) and close(
            jacobian(lambda c: run(x, c))(cond), jac_c
        )
    many, conds = torch.randn(5, 2, 3), torch.randn(5, 3)
    assert close(vmap(lambda x: run(x, cond))(many), torch.stack([run(x, cond, gradient=None) for x in many]))
    assert close(vmap(lambda c: run(x, c))(conds), torch.stack([run(x, c, gradient=None) for c in conds]))
    assert close(
        vmap(lambda x: run(x, cond, gradient=None))(many),
        torch.stack([run(x, cond, gradient=None) for x in many]),
    )
    noise = torch.randn(5, 4, 2, 3)
    assert close(vmap(lambda n: run(x, cond, n))(noise), torch.stack([run(x, cond, n, None) for n in noise]))
    assert close(
        vmap(grad(lambda c: run(x, c).sum()))(conds),
        torch.stack([grad(lambda c: run(x, c).sum())(c) for c in conds]),
    )
    second = torch.autograd.functional.hessian(lambda c: run(x, c).square().sum(), cond)
    assert close(hessian(lambda c: run(x, c).square().sum())(cond), second)


@pytest.mark.parametrize("gradient", [None, Direct()], ids=str)
@pytest.mark.parametrize("method", [DPMSolverPP(2), DDPM()], ids=str)
def test_linearize_is_refused_by_name(method, gradient):
    """torch's tracer crashes on the loop's sums; `linearised` is the same map."""
    plan, net = method.plan(PROCESS, GRID), network()
    x, v, noise = torch.randn(2, 3), torch.randn(2, 3), Addressed(0) if plan.slots else None

    def run(x):
        return sample(Denoiser(net, PROCESS, DATA), plan, x, noise=noise, gradient=gradient)

    with pytest.raises(ValueError, match=r"got a trace .*use pullback.adjoint.linearised"):
        torch.func.linearize(run, x)
    linear = linearised(Denoiser(net, PROCESS, DATA), plan, x, noise=noise)
    assert close(linear.jvp(v), jvp(run, (x,), (v,))[1]) and close(linear.value, run(x))


def test_parameters_by_functional_call(net):
    params, x, cond = dict(net.named_parameters()), torch.randn(2, 3), torch.randn(3)
    plan = plan_for(Direct())

    def loss(params):
        model = Denoiser(lambda x, t, cond: functional_call(net, params, (x, t, cond)), PROCESS, DATA)
        return sample(model, plan, x, cond=cond, gradient=Direct()).square().sum()

    got = grad(loss)(params)
    leaves = {name: value.detach().requires_grad_() for name, value in params.items()}
    want = torch.autograd.grad(loss(leaves), list(leaves.values()))
    assert all(close(a, b) for a, b in zip(got.values(), want, strict=True))


def test_forward_mode_without_functorch(run):
    x, cond, v = torch.randn(2, 3), torch.randn(3), torch.randn(2, 3)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(run(forward_ad.make_dual(x, v), cond)).tangent
    assert tangent is not None and close(tangent, jvp(lambda x: run(x, cond), (x,), (v,))[1])


@pytest.mark.parametrize("strategy", [Auto(), *(s for s in STRATEGIES if s != Direct())], ids=str)
def test_everything_else_refuses_before_any_call(strategy):
    """A hand-written backward pass would be skipped by a transform, or drop its tangent."""
    calls, plan, x = [], plan_for(strategy), torch.randn(2, 3)

    def counted(x, t):
        calls.append(1)
        return torch.tanh(x)

    def run(x):
        return sample(Denoiser(counted, PROCESS, DATA), plan, x, gradient=strategy)

    for transformed in (
        lambda: vjp(run, x),
        lambda: jvp(run, (x,), (x,)),
        lambda: jacrev(run)(x),
        lambda: vmap(run)(x[None]),
    ):
        with pytest.raises(
            ValueError, match=r"got a torch.func transform.*expected.*use gradient=Direct\(\)"
        ):
            transformed()
    with (
        forward_ad.dual_level(),
        pytest.raises(ValueError, match=r"got forward-mode AD.*use gradient=Direct\(\)"),
    ):
        run(forward_ad.make_dual(x, x))
    assert not calls


def test_what_is_not_finite_is_named_inside_a_transform():
    model, plan = (
        Denoiser(lambda x, t: torch.where(t[:, None] < 0.3, x / 0, x), PROCESS, DATA),
        plan_for(Direct()),
    )

    def total(x):
        return sample(model, plan, x, gradient=Direct()).sum()

    for transformed in (grad(total), jacrev(total), vmap(lambda row: total(row[None]))):
        with pytest.raises(FloatingPointError, match="step 3"):
            transformed(torch.ones(2, 3))


@pytest.mark.parametrize("prediction", [NOISE, DATA, V, FLOW], ids=lambda p: p.name)
@pytest.mark.parametrize(
    "process",
    [RectifiedFlow(), VP(), UserPair(torch.cos, torch.sin, 0.0, 1.5)],
    ids=lambda p: type(p).__name__,
)
def test_velocities_of_any_network_inside_a_transform(process, prediction):
    """The conversion to a velocity needs alpha' and sigma': found inside the transform as outside."""
    net = Conditioned(network())
    plan = FlowEuler().plan(process, UniformT(4, start=0.9, end=0.05))
    x, cond, v = torch.randn(2, 3), torch.randn(3), torch.randn(2, 3)

    def run(x):
        return sample(Denoiser(net, process, prediction), plan, x, cond=cond, gradient=Direct())

    leaf = x.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(run(leaf), leaf, v)
    value, pull, *_ = vjp(run, x)
    assert close(value, run(x)) and close(pull(v)[0], wanted)
    assert close(jvp(run, (x,), (v,))[1], torch.einsum("bijk,jk->bi", jacrev(run)(x), v))
    many = torch.randn(3, 2, 3)
    assert close(vmap(run)(many), torch.stack([run(x) for x in many]))
