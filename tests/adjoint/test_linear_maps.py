"""Coefficients that are maps of the state: factors for every element, and position and momentum mixed.

Against plain float64 loops, against the closed form of a damped oscillator, and every strategy against another.
"""

import pickle
from dataclasses import replace

import pytest
import torch
from everything import assert_same
from problems import MIXTURE, PROCESS
from torch import nn

from pullback.adjoint import (
    Checkpoint,
    Continuous,
    Direct,
    Mechanism,
    Reversible,
    TorchDiffEq,
    Truncated,
    sample,
)
from pullback.solvers import (
    DATA,
    DDPM,
    SCORE,
    Addressed,
    Builder,
    Combine,
    Denoiser,
    Evaluate,
    Mixing,
    PerElement,
    Plan,
    Transitions,
    advance,
    coefficients,
    decode,
    encode,
    expand,
    moments,
    recover_noise,
    run,
)
from pullback.solvers.plan import stack

TIMES = torch.linspace(0.9, 0.1, 5, dtype=torch.float64)
EXACT = [
    Direct(),
    Checkpoint(),
    Checkpoint(offload=True),
    Checkpoint(mechanism=Mechanism.REGION),
    Checkpoint(recursive=True),
    Truncated(9),
]


class Net(nn.Module):
    """Of both halves of the state."""

    def __init__(self, d):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(d + 1, 12), nn.Tanh(), nn.Linear(12, d))

    def forward(self, x, t):
        out = self.body(torch.cat([x.flatten(1), t[:, None]], 1))
        return out.reshape(x.shape)


def maps(kind, count, seed=0):
    """Invertible ones near the identity."""
    generator = torch.Generator().manual_seed(seed)
    if kind is Mixing:
        return [
            Mixing(torch.eye(2) + 0.3 * torch.randn(2, 2, generator=generator).double()) for _ in range(count)
        ]
    shapes = [(2, 3), (3,), (2, 1)]  # of a sample, and what broadcasts to it
    return [
        PerElement(1 + 0.3 * torch.rand(shapes[k % 3], generator=generator).double()) for k in range(count)
    ]


def matrix(c, like):
    """What a coefficient does, written out: the operator on a flattened sample."""
    n = like[0].numel()
    if isinstance(c, float):
        return c * torch.eye(n, dtype=torch.float64)
    if isinstance(c, PerElement):
        return c.values.expand(like.shape[1:]).reshape(-1).diag()
    return torch.kron(c.values, torch.eye(n // len(c.values), dtype=torch.float64))


def by_hand(network, plan, x, noise):
    """The plan with a dense matrix for every coefficient."""
    registers = {"x": x}
    for op in plan.instructions:
        if isinstance(op, Evaluate):
            assert isinstance(op.t, float)
            registers[op.outs[0]] = network(registers[op.src], torch.full((len(x),), op.t).to(x))
        else:
            terms = [(c, registers[name]) for c, name in op.terms] + [(c, noise[k]) for c, k in op.noise]
            registers[op.out] = sum((v.flatten(1) @ matrix(c, x).T).reshape(x.shape) for c, v in terms)
    return registers["x"]


def plain_plan(kind, seed=0):
    """One call a step, with history, a number among the maps and a draw: not reversible."""
    b = Builder(PROCESS, TIMES)
    for i in range(b.steps):
        b.begin()
        a, c, e, k = maps(kind, 4, seed + i)
        D = b.evaluate(f"D{i}", b.t[i], DATA)
        history = [(e, f"D{i - 1}")] if i else []
        b.combine("x", (a, "x"), (0.5, D), (c, D), *history, noise=k)
    return Plan("by hand", PROCESS, tuple(b.t), tuple(b.ops), tuple(b.starts), 1, True)


def reversible_plan(kind, seed=0):
    """Two states that leap over each other, with draws."""
    b = Builder(PROCESS, TIMES)
    for i in range(b.steps):
        b.begin()
        a, c, e, k = maps(kind, 4, seed + i)
        if i == 0:
            b.combine("y", (1.0, "x"))
        b.combine("y", (a, "y"), (0.2, "x"), (c, b.evaluate(f"D{i}", b.t[i], DATA)), noise=k)
        b.combine("x", (e, "x"), (c, b.evaluate(f"F{i}", b.t[i], DATA, "y")), (0.1, "y"))
    return Plan("leaping", PROCESS, tuple(b.t), tuple(b.ops), tuple(b.starts), 1, True)


def gradients(network, plan, x, noise, strategy):
    inputs = [x, noise, *network.parameters()]
    out = sample(Denoiser(network, PROCESS, DATA), plan, x, noise=noise, gradient=strategy)
    return [out, *torch.autograd.grad(out.square().sum(), inputs)]


@pytest.mark.parametrize("kind", [PerElement, Mixing])
@pytest.mark.parametrize("make", [plain_plan, reversible_plan])
def test_value_and_gradients_are_those_of_dense_matrices(kind, make):
    torch.manual_seed(0)
    network, plan = Net(6), make(kind)
    x, noise = torch.randn(3, 2, 3, requires_grad=True), torch.randn(plan.slots, 3, 2, 3, requires_grad=True)
    want = by_hand(network, plan, x, noise)
    want = [want, *torch.autograd.grad(want.square().sum(), [x, noise, *network.parameters()])]
    strategies = [*EXACT, Reversible(), Reversible(anchor=2)] if make is reversible_plan else EXACT
    for strategy in strategies:
        assert_same(gradients(network, plan, x, noise, strategy), want, 1e-12)


@pytest.mark.parametrize("kind", [PerElement, Mixing])
def test_the_gradient_of_the_gradient(kind):
    network, plan = Net(6), plain_plan(kind)
    x, noise = torch.randn(2, 2, 3, requires_grad=True), torch.randn(plan.slots, 2, 2, 3)

    def second(strategy):
        out = sample(Denoiser(network, PROCESS, DATA), plan, x, noise=noise, gradient=strategy)
        (first,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), x)

    assert_same(second(Checkpoint()), second(Direct()), 1e-11)


@pytest.mark.parametrize("kind", [PerElement, Mixing])
def test_a_plan_with_maps_can_be_undone_printed_pickled_split_and_compared(kind):
    network, plan = Net(6), reversible_plan(kind)
    model, x, noise = Denoiser(network, PROCESS, DATA), torch.randn(3, 2, 3), torch.randn(plan.slots, 3, 2, 3)
    back = decode(model, plan, encode(model, plan, x, noise=noise), noise=noise, dtype=torch.float64)
    assert (back - x).abs().max() < 1e-12
    assert pickle.loads(pickle.dumps(plan)) == plan and hash(pickle.loads(pickle.dumps(plan))) == hash(plan)
    assert plan != reversible_plan(kind, seed=7) and str(plan).count(kind.__name__) == 20
    head, tail = plan.split(2)
    whole = run(model, plan, x, noise=noise)
    assert torch.equal(run(model, tail, advance(model, head, x, noise=noise), noise=noise), whole)


@pytest.mark.parametrize("kind", [PerElement, Mixing])
def test_one_plan_for_each_sample(kind):
    network, plans = Net(6), [reversible_plan(kind, seed=10 * k) for k in range(3)]
    model, x, noise = Denoiser(network, PROCESS, DATA), torch.randn(3, 2, 3), torch.randn(4, 3, 2, 3)
    together = stack(plans)
    alone = [run(model, p, x[k : k + 1], noise=noise[:, k : k + 1]) for k, p in enumerate(plans)]
    assert torch.allclose(run(model, together, x, noise=noise), torch.cat(alone), atol=1e-13)
    assert (
        decode(model, together, encode(model, together, x, noise=noise), noise=noise, dtype=x.dtype) - x
    ).abs().max() < 1e-12
    x.requires_grad_()
    assert_same(
        gradients(network, together, x, noise.requires_grad_(), Reversible()),
        gradients(network, together, x, noise, Direct()),
    )
    assert pickle.loads(pickle.dumps(together)) == together and kind.__name__ in str(together)
    with pytest.raises(ValueError, match="compiles to another program"):
        stack([plans[0], reversible_plan(Mixing if kind is PerElement else PerElement)])


def test_a_damped_oscillator_with_noise_on_its_momentum_has_its_exact_law():
    """dx = m dt, dm = (-w^2 (x - mu) - g m) dt + s dW, the force -w^2 (x - mu) from the network and half of it too.

    Each step is exact for a force that is linear: the mean map after N steps of h is that of one step of N h, and the
    covariance solves A C + C A^T + s s^T = dC/dt.
    """
    w2, g, s, mu, T, n = 2.0, 0.7, 0.9, 0.4, 1.3, 5
    A = torch.tensor([[0.0, 1.0], [-w2, -g]], dtype=torch.float64)
    h = T / n

    def covariance(time):
        """By Van Loan: exp of [[-A, Q], [0, A^T]] t."""
        Q = torch.tensor([[0.0, 0.0], [0.0, s**2]], dtype=torch.float64)
        block = torch.linalg.matrix_exp(torch.cat([torch.cat([-A, Q], 1), torch.cat([0 * A, A.T], 1)]) * time)
        return block[2:, 2:].T @ block[:2, 2:]

    flow, chol = torch.linalg.matrix_exp(A * h), torch.linalg.cholesky(covariance(h))
    pull = torch.eye(2, dtype=torch.float64) - flow  # of the rest point (mu, 0), which the network knows

    def rest(x, t):
        return torch.cat([torch.full_like(x[:, :3], mu), torch.zeros_like(x[:, 3:])], 1)

    times = torch.linspace(0.9, 0.1, n + 1, dtype=torch.float64)
    b = Builder(PROCESS, times)
    for i in range(n):
        b.begin()
        b.combine(
            "x", (Mixing(flow), "x"), (Mixing(pull), b.evaluate(f"D{i}", b.t[i], DATA)), noise=Mixing(chol)
        )
    plan = Plan("oscillator", PROCESS, tuple(b.t), tuple(b.ops), tuple(b.starts), 1, True)
    model, x = Denoiser(rest, PROCESS, DATA), torch.randn(2, 6, requires_grad=True)
    zero = torch.zeros(n, 2, 6)
    mean = sample(model, plan, x, noise=zero)
    at = torch.stack([x[:, :3] - mu, x[:, 3:]])
    want = torch.einsum("ij,jbd->ibd", torch.linalg.matrix_exp(A * T), at)
    assert torch.allclose(mean, torch.cat([want[0] + mu, want[1]], 1), atol=1e-13)
    noise = torch.zeros(n, 2, 6).requires_grad_()  # the sample is linear in it: its Jacobian is the law's
    out = sample(model, plan, x.detach(), noise=noise, gradient=Checkpoint())
    rows = [torch.autograd.grad(out[0, k], noise, retain_graph=True)[0][:, 0] for k in (0, 3)]
    found = torch.stack([torch.stack([(p * q).sum() for q in rows]) for p in rows])
    assert (found - covariance(T)).abs().max() < 1e-13


def test_position_and_momentum_as_two_registers():
    """Leapfrog of a network that sees the position alone: reversible as it stands, momentum given on entry."""
    network, h = Net(3), 0.3
    b = Builder(PROCESS, TIMES)
    for i in range(b.steps):
        b.begin()
        b.combine("m", (0.9, "m"), (h, b.evaluate(f"S{i}", b.t[i], SCORE)), noise=0.2)
        b.combine("x", (1.0, "x"), (h, "m"))
    plan = Plan("leapfrog", PROCESS, tuple(b.t), tuple(b.ops), tuple(b.starts), 1, True, entry=("x", "m"))
    x, m, noise = (torch.randn(4, 3, requires_grad=True) for _ in range(3))
    noise = torch.randn(4, 4, 3)
    inputs = [x, m, *network.parameters()]

    def found(strategy):
        out = sample(
            Denoiser(network, PROCESS, SCORE), plan, {"x": x, "m": m}, noise=noise, gradient=strategy
        )
        return [out, *torch.autograd.grad(out.square().sum(), inputs)]

    at, speed = x, m
    for i in range(plan.steps):
        speed = 0.9 * speed + h * network(at, TIMES[i].expand(4)) + 0.2 * noise[i]
        at = at + h * speed
    want = [at, *torch.autograd.grad(at.square().sum(), inputs)]
    for strategy in (Direct(), Checkpoint(), Reversible()):
        assert_same(found(strategy), want)


def test_precision_is_the_state_s_and_the_way_back_is_float64():
    torch.manual_seed(1)
    network, plan = Net(6).float(), reversible_plan(Mixing)
    x = torch.randn(3, 2, 3, dtype=torch.float32, requires_grad=True)
    noise = torch.randn(plan.slots, 3, 2, 3, dtype=torch.float32)
    model = Denoiser(network, PROCESS, DATA)
    out = sample(model, plan, x, noise=noise)
    assert out.dtype == torch.float32
    back = sample(model, plan, x, noise=noise, gradient=Reversible())
    grads = [torch.autograd.grad(v.square().sum(), x)[0] for v in (out, back)]
    assert torch.allclose(*grads, rtol=2e-5, atol=1e-5)


def test_noise_is_recovered_through_factors_of_every_element():
    base = DDPM().plan(PROCESS, TIMES)
    wide = []
    for op in base.instructions:
        if isinstance(op, Combine):
            ((c, slot),) = op.noise
            assert isinstance(c, float)
            op = replace(op, noise=((PerElement(torch.tensor([c, 1.5 * c])), slot),))
        wide.append(op)
    plan, model, x0 = replace(base, instructions=tuple(wide)), MIXTURE.denoiser(PROCESS), torch.randn(3, 2)
    start, noise = recover_noise(model, plan, x0, noise=Addressed(3))
    assert torch.allclose(run(model, plan, start, noise=noise), x0, atol=1e-12)
    with pytest.raises(ValueError, match=r"got noise of scale PerElement"):
        Transitions(plan)


def test_what_knows_numbers_only_says_so_before_any_call():
    plan, model = plain_plan(Mixing), Denoiser(lambda x, t: x[99], PROCESS, DATA)
    x, noise = torch.randn(3, 2, 3), torch.randn(4, 3, 2, 3)
    for asked in (
        lambda: moments(plan, 0.0, 1.0, 0.0, 1.0),
        lambda: expand(plan),
        lambda: coefficients(plan, model),
        lambda: recover_noise(model, plan, x, noise=Addressed(0)),
        lambda: run(model, plan, {"a": x, "b": x}, noise={"a": noise, "b": noise}),
        lambda: sample(model, plan, x.requires_grad_(), noise=noise, gradient=TorchDiffEq()),
    ):
        with pytest.raises(ValueError, match=r"the coefficient Mixing\(.*expected numbers"):
            asked()
    with pytest.raises(ValueError, match=r"Continuous\(.*the coefficient Mixing\("):
        still = replace(plan, stochastic=False)
        sample(model, still, x.requires_grad_(), noise=noise, gradient=Continuous())
    with pytest.raises(ValueError, match=r"Mixing: got states \(3, 3\) for a matrix of 2 parts"):
        run(model, plan, torch.randn(3, 3), noise=torch.randn(4, 3, 3))
    with pytest.raises(
        ValueError, match=r"PerElement: got factors of shape \(2, 3\), expected .* sample's \(3,\)"
    ):
        run(model, plain_plan(PerElement), torch.randn(3, 3), noise=torch.randn(4, 3, 3))


def test_wrong_maps():
    for make, match in (
        (lambda: Mixing([[1.0, 2.0]]), r"got shape \(1, 2\), expected a square"),
        (lambda: PerElement([1.0, float("nan")]), "got NaN or infinity"),
        (lambda: Mixing([[1.0, 2.0], [2.0, 4.0]]).inverse(), "singular"),
        (lambda: PerElement([1.0, 0.0]).inverse(), "got a factor 0"),
        (lambda: Mixing([[1.0]]).after(PerElement([1.0])), "two of one kind"),
    ):
        with pytest.raises(ValueError, match=match):
            make()
