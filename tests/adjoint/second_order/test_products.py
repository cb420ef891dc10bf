"""Products with a run's Jacobian: J v against plain autograd and differences, J^T w as its transpose, any method."""

from dataclasses import replace

import pytest
import torch
from problems import MIXTURE, PROCESS, every_method
from strategies import network
from torch import nn
from torch.func import functional_call

from pullback.adjoint import (
    Checkpoint,
    Continuous,
    Direct,
    DoubleBackward,
    ForwardMode,
    PerStep,
    Reversible,
    Truncated,
    linearised,
    pushforward,
    sample,
)
from pullback.solvers import (
    DATA,
    DDIM,
    DDPM,
    Addressed,
    Apply,
    Denoiser,
    DPMSolverPP,
    ReversibleHeun,
    UniformLambda,
    UniformT,
)

GRID = UniformT(4, start=0.9, end=0.05)
# a few in the default suite: what a plan is made of is the same few instructions
SWEEP = [m if k % 12 == 4 else pytest.param(m, marks=pytest.mark.slow) for k, m in enumerate(every_method())]
WAYS = [ForwardMode(), DoubleBackward()]


class Conditioned(nn.Module):
    """x, t and conditioning all enter, through weights, what is not linear, and dropout if there is any."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.net, self.drop = network(), nn.Dropout(dropout)

    def forward(self, x, t, cond):
        return self.drop(torch.tanh(self.net(x, t))) * (1 + cond["scale"].tanh())


def close(a, b, tolerance=1e-11):
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance * float(1 + b.detach().abs().max()))


def dot(left, right):
    return sum(float((a * b).detach().sum()) for a, b in zip(left, right, strict=True))


def by_autograd(run, inputs, tangents):
    """J v by plain autograd through the loop: two backward passes around the whole run."""
    out = run(*inputs)
    u = torch.zeros_like(out, requires_grad=True)
    pulled = torch.autograd.grad(out, inputs, u, create_graph=True)
    return torch.autograd.grad(pulled, u, tangents)[0]


@pytest.mark.parametrize("method", SWEEP, ids=str)
def test_every_method(method):
    """At x, conditioning, controls and, where the plan draws, noise."""
    plan, model = method.plan(PROCESS, UniformLambda(3, start=0.8, end=0.1)), MIXTURE.denoiser(PROCESS)
    inputs = [torch.randn(2, 2), torch.randn(2), torch.randn(plan.steps, 2, 2)]
    inputs += [torch.randn(plan.slots, 2, 2)] if plan.slots else []
    inputs = [value.requires_grad_() for value in inputs]
    v, w = [torch.randn_like(value) for value in inputs], torch.randn(2, 2)

    def given(x, cond, controls, noise=None):
        return {"x": x, "cond": cond, "controls": controls, "noise": noise}

    wanted = by_autograd(lambda *a: sample(model, plan, gradient=Direct(), **given(*a)), inputs, v)
    for by in WAYS:
        value, moved = pushforward(model, plan, tangent=v, wrt=inputs, by=by, **given(*inputs))
        assert close(moved, wanted) and close(
            value, sample(model, plan, gradient=None, **given(*inputs)), 1e-13
        )
        assert not moved.requires_grad
    linear = linearised(model, plan, wrt=inputs, **given(*inputs))
    assert close(linear.jvp(v), wanted)
    assert abs(dot([w], [linear.jvp(v)]) - dot(linear.vjp(w), v)) < 1e-12 * (1 + abs(dot([w], [wanted])))


def test_against_differences_along_the_tangent():
    plan, model = DPMSolverPP(3).plan(PROCESS, GRID), MIXTURE.denoiser(PROCESS)
    x, v, h = torch.randn(3, 2), torch.randn(3, 2), 1e-3

    def at(s):
        return sample(model, plan, x + s * h * v, gradient=None)

    wanted = (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * h)  # of order h^4
    assert close(pushforward(model, plan, x, v)[1], wanted, 1e-8)


@pytest.mark.parametrize("by", WAYS, ids=str)
@pytest.mark.parametrize("method", [DDPM(), DPMSolverPP(2)], ids=str)
def test_parameters_and_nested_conditioning(method, by):
    """Against torch.func.jvp of the same run as a function of the weights."""
    net, plan = Conditioned(), method.plan(PROCESS, GRID)
    model, noise = Denoiser(net, PROCESS, DATA), Addressed(0) if plan.slots else None
    x, cond = torch.randn(2, 3), {"scale": torch.randn(3), "label": torch.tensor([1, 4])}
    weights = dict(net.named_parameters())
    v, dc = {k: torch.randn_like(p) for k, p in weights.items()}, torch.randn(3)

    def run(weights, scale):
        called = Denoiser(lambda x, t, cond: functional_call(net, weights, (x, t, cond)), PROCESS, DATA)
        return sample(called, plan, x, cond={**cond, "scale": scale}, noise=noise, gradient=Direct())

    wanted = torch.func.jvp(run, (weights, cond["scale"]), (v, dc))[1]
    wrt, tangent = (weights, cond["scale"]), (v, dc)
    assert close(pushforward(model, plan, x, tangent, cond=cond, noise=noise, wrt=wrt, by=by)[1], wanted)
    linear = linearised(model, plan, x, cond=cond, noise=noise, wrt=wrt, by=by)
    w = torch.randn(2, 3)
    pulled = linear.vjp(w)
    assert close(linear.jvp(tangent), wanted) and pulled[0].keys() == weights.keys()
    got = dot([pulled[1], *pulled[0].values()], [dc, *v.values()])
    assert abs(got - dot([w], [wanted])) < 1e-12 * (1 + abs(got))
    assert all(p is net.get_parameter(k) for k, p in weights.items())  # they are back in their places


@pytest.mark.parametrize("by", WAYS, ids=str)
def test_steps_of_conditioning_stacked_plans_and_functions(by):
    net = Conditioned()
    model, x, v = Denoiser(net, PROCESS, DATA), torch.randn(2, 3), torch.randn(2, 3)
    stacked = DPMSolverPP(2).plan(PROCESS, torch.linspace(0.9, 0.05, 5)[:, None] + torch.tensor([0.0, 0.05]))
    steps = torch.randn(4, 3)
    plans = {"stacked": stacked, "applied": DDIM().plan(PROCESS, GRID)}
    last = Apply(("x",), ("x",), lambda x: x + 0.3 * x.sin())
    plans["applied"] = replace(plans["applied"], instructions=(*plans["applied"].instructions, last))
    for plan in plans.values():
        cond, dc = {"scale": PerStep(steps)}, torch.randn(4, 3)

        def run(x, steps, plan=plan):
            return sample(model, plan, x, cond={"scale": PerStep(steps)}, gradient=Direct())

        wanted = torch.func.jvp(run, (x, steps), (v, dc))[1]
        linear = linearised(model, plan, x, cond=cond, wrt=[x, steps], by=by)
        w = torch.randn(2, 3)
        assert close(linear.jvp([v, dc]), wanted)
        assert abs(dot([w], [wanted]) - dot(linear.vjp(w), [v, dc])) < 1e-12 * (1 + w.norm() * wanted.norm())


def test_joint_states():
    class Film(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.Linear(6, 5)

        def forward(self, x, t):
            both = torch.tanh(self.mix(torch.cat([x["a"].flatten(1), x["b"], t[:, None]], 1)))
            return {"a": both[:, :2].reshape(-1, 2, 1), "b": both[:, 2:]}

    plan, film = DPMSolverPP(2).plan(PROCESS, GRID), Denoiser(Film(), PROCESS, DATA)
    x, v, w = ({"a": torch.randn(2, 2, 1), "b": torch.randn(2, 3)} for _ in range(3))
    linear = linearised(film, plan, x)
    pushed, pulled = linear.jvp(v), linear.vjp(w)
    wanted = torch.func.jvp(lambda x: sample(film, plan, x, gradient=None), (x,), (v,))[1]
    assert all(close(pushed[k], wanted[k]) for k in x) and pushed.keys() == pulled.keys() == x.keys()
    assert abs(dot(w.values(), pushed.values()) - dot(pulled.values(), v.values())) < 1e-12
    product = linear.gauss_newton(v)
    again = linear.vjp(pushed)
    assert all(close(product[k], again[k]) for k in x)


@pytest.mark.parametrize(
    "gradient", [Checkpoint(), Checkpoint(offload=True), Direct(), Reversible()], ids=str
)
def test_products_repeat_and_dropout_is_replayed(gradient):
    """The same J at every product, whatever is drawn in between, with the calls that were promised."""
    net = Conditioned(dropout=0.0 if isinstance(gradient, Reversible) else 0.4)
    calls = []
    net.register_forward_hook(lambda *_: calls.append(1))
    method = ReversibleHeun() if isinstance(gradient, Reversible) else DPMSolverPP(2)
    plan, model = method.plan(PROCESS, GRID), Denoiser(net, PROCESS, DATA)
    x, v, w, scale = torch.randn(2, 3), torch.randn(2, 3), torch.randn(2, 3), {"scale": torch.randn(3)}
    linear = linearised(model, plan, x, cond=scale, gradient=gradient)
    products = []
    for _ in range(2):
        torch.rand(3)
        calls.clear()
        pushed = linear.jvp(v)
        assert len(calls) == plan.nfe
        pulled = linear.vjp(w)
        assert len(calls) == plan.nfe * (1 if gradient == Direct() else 2)
        products.append((pushed, pulled))
        assert abs(dot([w], [pushed]) - dot([pulled], [v])) < 1e-12 * (1 + w.norm() * pushed.norm())
    assert all(close(a, b, 1e-13) for a, b in zip(*products, strict=True))


def test_gauss_newton_with_a_curvature():
    """J^T H J, H the Hessian of a loss at the sample, against the dense matrices."""
    plan, model = DPMSolverPP(2).plan(PROCESS, GRID), MIXTURE.denoiser(PROCESS)
    x, v = torch.randn(1, 2), torch.randn(1, 2)
    root = torch.randn(2, 2)
    h = root + root.T
    jacobian = torch.func.jacfwd(lambda x: sample(model, plan, x[None], gradient=None)[0])(x[0])
    linear = linearised(model, plan, x)
    assert close(linear.gauss_newton(v, lambda u: u @ h)[0], jacobian.T @ h @ jacobian @ v[0])
    assert close(linear.gauss_newton(v)[0], jacobian.T @ jacobian @ v[0])


def test_batch_mates_do_not_meet():
    plan, model = DPMSolverPP(3).plan(PROCESS, GRID), MIXTURE.denoiser(PROCESS)
    x, v = torch.randn(5, 2), torch.randn(5, 2)
    together = linearised(model, plan, x).gauss_newton(v)
    assert close(together[2:3], linearised(model, plan, x[2:3]).gauss_newton(v[2:3]), 1e-13)


def test_memory_is_that_of_a_call():
    """What stays between products are states: the bytes autograd keeps do not hold one call's activations."""
    wide = nn.Sequential(nn.Linear(3, 400), nn.SiLU(), nn.Linear(400, 3)).requires_grad_(False)
    model, kept = Denoiser(lambda x, t: wide(x), PROCESS, DATA), []
    plan, x = DPMSolverPP(2).plan(PROCESS, UniformT(10, start=0.9, end=0.05)), torch.randn(2, 3)
    linear = linearised(model, plan, x)
    seen, stack = set(), [out.grad_fn for out in linear._out]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        kept += [t.numel() for t in getattr(node, "saved_tensors", ()) if isinstance(t, torch.Tensor)]
        stack += [edge for edge, _ in node.next_functions]
    assert kept and sum(kept) <= plan.nfe * x.numel()


class Square(torch.autograd.Function):
    """Without a forward-mode formula."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx, *grads):
        (grad,) = grads
        return 2 * ctx.saved_tensors[0] * grad


def test_a_network_without_forward_formulas():
    plan, x, v = DDIM().plan(PROCESS, GRID), torch.randn(2, 3), torch.randn(2, 3)
    model, plain = (
        Denoiser(lambda x, t, f=f: f(x).sin(), PROCESS, DATA) for f in (Square.apply, torch.square)
    )
    with pytest.raises(
        NotImplementedError, match=r"network call 0 of step 0: got .*pass by=DoubleBackward\(\)"
    ):
        pushforward(model, plan, x, v)
    assert close(pushforward(model, plan, x, v, by=DoubleBackward())[1], pushforward(plain, plan, x, v)[1])


def test_attention():
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.enter = nn.Linear(1, 4)

        def forward(self, x, t):
            h = self.enter(x[..., None] + t[:, None, None])[:, None]
            return nn.functional.scaled_dot_product_attention(h, h, h)[:, 0].sum(-1)

    model, plan = Denoiser(Attends(), PROCESS, DATA), DDIM().plan(PROCESS, GRID)
    x, v, h = torch.randn(2, 3), torch.randn(2, 3), 1e-5
    ends = [sample(model, plan, x + s * h * v, gradient=None) for s in (1, -1)]
    linear = linearised(model, plan, x)
    assert close(linear.jvp(v), (ends[0] - ends[1]) / (2 * h), 1e-7)
    linear.gauss_newton(v)


def test_what_has_a_tangent_and_no_gradient_is_noticed():
    def network(x, t):
        with torch.no_grad():
            scale = 1 + x.square().mean(1, keepdim=True)
        return torch.tanh(x) * scale

    plan, model, x, v = (
        DDIM().plan(PROCESS, GRID),
        Denoiser(network, PROCESS, DATA),
        torch.randn(2, 3),
        torch.randn(2, 3),
    )
    with pytest.raises(RuntimeError, match=r"J v and J\^T w: got .* expected the same"):
        linearised(model, plan, x).gauss_newton(v)
    linear, w = linearised(model, plan, x, by=DoubleBackward()), torch.randn(2, 3)
    linear.gauss_newton(v)
    assert abs(dot([w], [linear.jvp(v)]) - dot([linear.vjp(w)], [v])) < 1e-12


def test_what_changed_since_is_named():
    net = Conditioned()
    plan, model = DDIM().plan(PROCESS, GRID), Denoiser(net, PROCESS, DATA)
    x, cond = torch.randn(2, 3), {"scale": torch.randn(3)}
    for change in (lambda: x.add_(1), lambda: next(net.parameters()).add_(1)):
        linear = linearised(model, plan, x, cond=cond)
        with torch.no_grad():
            change()
        for product in (linear.jvp, linear.vjp):
            with pytest.raises(RuntimeError, match="changed in place"):
                product(torch.randn(2, 3))
    state = [0.0]
    counting = Denoiser(lambda x, t: torch.tanh(x) + state[0], PROCESS, DATA)
    linear, state[0] = linearised(counting, plan, x), 1.0
    with pytest.raises(RuntimeError, match="gave another output"):
        linear.jvp(torch.randn(2, 3))


def test_refusals():
    plan, model = DDIM().plan(PROCESS, GRID), Denoiser(Conditioned(), PROCESS, DATA)
    x, cond = torch.randn(2, 3), {"scale": torch.randn(3)}
    for wrt, words in (
        ([x.clone()], "does not enter"),
        ([x, x], "each once"),
        ([], "at least one"),
        (["x"], "expected floating point tensors"),
    ):
        with pytest.raises(ValueError, match=words):
            pushforward(model, plan, x, wrt, cond=cond, wrt=wrt)
    for tangent in (torch.randn(3), [x], None):
        with pytest.raises(ValueError, match=r"tangent: got .*expected \(2, 3\)"):
            pushforward(model, plan, x, tangent, cond=cond)
    with pytest.raises(ValueError, match=r"cotangent: got \[\(3,\)\], expected \[\(2, 3\)\]"):
        linearised(model, plan, x, cond=cond).vjp(torch.randn(3))
    for gradient in (Truncated(2), Continuous()):
        with pytest.raises(ValueError, match="expected an exact strategy"):
            linearised(model, plan, x, cond=cond, gradient=gradient)
    weight = next(model.parameters())
    weight.requires_grad_(False)
    with pytest.raises(ValueError, match="a parameter that does not require grad"):
        linearised(model, plan, x, cond=cond, wrt=[weight])
    with pytest.raises(ValueError, match="forward mode does not nest"):
        torch.func.jvp(lambda x: pushforward(model, plan, x, x, cond=cond)[1], (x,), (x,))
    broken = Denoiser(lambda x, t: (x - x.detach()).abs().sqrt(), PROCESS, DATA)
    with pytest.raises(FloatingPointError, match="tangent: got one that is not finite"):
        pushforward(broken, plan, x, torch.ones(2, 3))
