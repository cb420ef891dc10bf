"""Reversible methods: exact inverses, exact gradients at the memory of two states, and refusals."""

import pytest
import torch
from everything import GRID, assert_same, by_autograd, everything
from problems import MIXTURE, PROCESS, every_method, warped
from torch import nn

from pullback.adjoint import Direct, PerStep, Reversible, Truncated, audit, sample
from pullback.solvers import (
    BDIA,
    DATA,
    DDIM,
    EDICT,
    OBELM,
    Addressed,
    Coupled,
    Denoiser,
    DPMSolverPP,
    RectifiedFlow,
    ReversibleHeun,
    Rex,
    Rising,
    Stages,
    UniformLambda,
    UniformT,
    V,
    accepted_times,
    decode,
    encode,
    expand,
    inversion,
    run,
)
from pullback.solvers.loop import execute, predict
from pullback.solvers.program import Program, prepare


def invertible(method) -> bool:
    try:
        inversion(method.plan(PROCESS, GRID))
    except ValueError:
        return False
    return True


def damping(method) -> float:
    """What the difference of the two states is multiplied by in a step; round-off grows by its inverse."""
    return getattr(method, "zeta", getattr(method, "gamma", 1.0))


METHODS = [m for m in every_method() if invertible(m)]


def test_which_methods_can_be_inverted():
    reversible = (ReversibleHeun, BDIA, OBELM, EDICT, Coupled, Rex)
    assert {type(m) for m in METHODS} == set(reversible)
    assert [m for m in every_method() if isinstance(m, reversible)] == METHODS  # in every variant
    assert not any(isinstance(m, (DDIM, DPMSolverPP)) for m in METHODS)


@pytest.mark.parametrize("rising", [False, True])
@pytest.mark.parametrize("n", [1, 2, 7, 20])
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_round_trip(method, n, rising):
    """T9: x -> registers -> x, also from data to noise."""
    if rising and method.stochastic:
        with pytest.raises(ValueError, match="rising grid"):
            method.plan(PROCESS, PROCESS.time(warped(n)).flip(0))
        return
    times = PROCESS.time(warped(n))
    plan, x = method.plan(PROCESS, Rising(times) if rising else times), torch.randn(8, 2)
    noise = Addressed(0)
    there = encode(MIXTURE.denoiser(PROCESS), plan, x, noise=noise)
    back = decode(MIXTURE.denoiser(PROCESS), plan, there, dtype=torch.float64, noise=noise)
    assert torch.equal(there["x"], run(MIXTURE.denoiser(PROCESS), plan, x, noise=noise))
    assert (back - x).abs().max() < 1e-10 * damping(method) ** -n


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_the_inverse_is_a_plan(method):
    """Printed, costed, run by the ordinary loop and differentiable; its inverse is the plan again."""
    plan = method.plan(PROCESS, GRID)
    back, x, model, noise = plan.inverse(), torch.randn(3, 2), MIXTURE.denoiser(PROCESS), Addressed(1)
    assert (
        back.nfe == plan.nfe
        and back.steps == plan.steps
        and back.times == plan.times[::-1]
        and "inverse of" in str(back)
    )
    registers = encode(model, plan, x, noise=noise)
    assert torch.allclose(run(model, back, registers, noise=noise), x, atol=1e-11)
    with pytest.raises(ValueError, match="got registers"):
        run(model, back, x)
    for value in registers.values():
        value.requires_grad_()
    got, want = (
        torch.autograd.grad(
            sample(model, back, registers, noise=noise, gradient=g).sum(),
            list(registers.values()),
            allow_unused=True,
        )
        for g in (None or Direct(), Direct())
    )
    assert_same(got, want)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_reversible_equals_direct(method, device):
    """T8: every kind of input; the round trip's error is all that separates them."""
    seen = []
    strategies = [Reversible(observe=seen.append), Reversible(anchor=2), Truncated(9, inner=Reversible())]
    for strategy in strategies:
        assert_same(
            everything(method, strategy, device=device),
            by_autograd(method, device=device),
            tolerance=1e-7 if method.stochastic else 1e-10,
        )
    assert len(seen) == 1 and 0 <= seen[0] < (1e-4 if method.stochastic else 1e-10)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_truncated_and_double_backward(method):
    for strategy, plain in ((Truncated(3, inner=Reversible()), Truncated(3, inner=Direct())),):
        plan, model = method.plan(PROCESS, GRID), MIXTURE.denoiser(PROCESS)
        cond, x = torch.randn(6, 2, requires_grad=True), torch.randn(4, 2)
        grads = []
        for g in (strategy, plain):
            out = sample(model, plan, x, cond=PerStep(cond), noise=Addressed(0), gradient=g)
            grads.append(torch.autograd.grad(out.square().sum(), cond))
        assert_same(*grads, tolerance=1e-10)
    assert_same(
        everything(method, Reversible(), dropout=0.3, order=2),
        everything(method, Direct(), dropout=0.3, order=2),
        1e-7 if method.stochastic else 1e-10,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", [ReversibleHeun(), OBELM()], ids=str)
def test_half_and_single_precision_come_back_exactly(method, dtype):
    """The state is carried in float64, so the network sees the same numbers twice, bit for bit."""
    network = nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, 3)).to(dtype)
    model = Denoiser(lambda x, t: network(x.to(dtype)).to(x.dtype), PROCESS, DATA)
    x = torch.randn(4, 3, dtype=torch.float32, requires_grad=True)
    plan, seen = method.plan(PROCESS, UniformLambda(50, end=0.02)), []
    out = sample(model, plan, x, gradient=Reversible(observe=seen.append))
    torch.autograd.grad(out.square().sum(), [x, *network.parameters()])
    assert out.dtype == torch.float32 and seen[0] < 1e-10


def test_it_costs_what_checkpoint_costs():
    """N + 1 calls forward, one replay each."""
    calls = []

    def network(x, t):
        calls.append(1)
        return torch.tanh(x)

    x = torch.randn(2, 2, requires_grad=True)
    plan = ReversibleHeun().plan(PROCESS, GRID)
    sample(Denoiser(network, PROCESS, DATA), plan, x, gradient=Reversible()).sum().backward()
    assert len(calls) == 2 * plan.nfe


@pytest.mark.parametrize(
    "method, states", [(ReversibleHeun(), 11), (OBELM(), 14), (Rex(Stages.MIDPOINT), 16)], ids=str
)
def test_memory_does_not_grow_with_the_steps(method, states):
    """Live tensors at their peak, in states: a dozen, at 5 steps as at 40. One of them is the caller's own sample,
    whose end is kept beside it; the marks of 40 calls take two of 256 numbers a sample and share it among them.
    """
    model, x = Denoiser(lambda x, t: torch.tanh(x), PROCESS, DATA), torch.randn(64, 256, requires_grad=True)
    peaks = []
    for n in (5, 40):
        plan = method.plan(PROCESS, UniformLambda(n, start=0.9, end=0.05))
        (row,) = audit(model, plan, x, lambda out: out.sum(), {}, reference=Reversible(), repeats=1).rows
        peaks.append(row.memory / x.nbytes)
    assert abs(peaks[1] - peaks[0]) < 0.5 and peaks[1] < states + 0.02


def test_infinite_ends_keep_their_start():
    process = RectifiedFlow()
    for method in METHODS:
        if method.stochastic:
            continue
        plan = method.plan(process, UniformT(6))
        model = Denoiser(lambda x, t: torch.tanh(x) * 0.5, process, V)
        x = torch.randn(4, 2, requires_grad=True)
        grads = [
            torch.autograd.grad(sample(model, plan, x, gradient=g).square().sum(), x)
            for g in (Reversible(), Direct())
        ]
        assert_same(*grads, tolerance=1e-10)


def test_a_plan_without_inverse_is_refused_before_any_call():
    x = torch.randn(2, 2, requires_grad=True)
    with pytest.raises(ValueError, match=r"cannot be undone: got unknown registers .* reversible method"):
        sample(
            Denoiser(lambda x, t: x[99], PROCESS, DATA), DDIM().plan(PROCESS, GRID), x, gradient=Reversible()
        )


def test_a_lost_state_is_an_error():
    """BDIA's inverse amplifies by gamma^-N: at gamma = 0.1 and 40 steps nothing is left, and anchors mend it."""
    plan = BDIA(0.1).plan(PROCESS, UniformLambda(40, end=0.02))
    x = torch.randn(4, 2, requires_grad=True)
    model = MIXTURE.denoiser(PROCESS)
    with pytest.raises(RuntimeError, match="reconstructed state"):
        sample(model, plan, x, gradient=Reversible()).sum().backward()
    grads = [
        torch.autograd.grad(sample(model, plan, x, gradient=g).sum(), x)
        for g in (Reversible(anchor=4), Direct())
    ]
    assert_same(*grads, tolerance=1e-7)


def test_an_adaptive_run_is_reversible():
    """T9: the accepted times are the plan's, so the way back takes the same steps."""
    model, x = MIXTURE.denoiser(PROCESS), torch.randn(16, 2)
    counts = []
    for tolerance in (1e-1, 1e-2, 1e-3):
        times = accepted_times(model, x, 1.0, 0.02, rtol=tolerance, atol=tolerance)
        counts.append(len(times))
        assert times[0] == 1.0 and times[-1] == 0.02 and bool((times.diff() < 0).all())
        for method in (Rex(Stages.MIDPOINT), ReversibleHeun()):
            plan = method.plan(PROCESS, times)
            assert (decode(model, plan, encode(model, plan, x), dtype=torch.float64) - x).abs().max() < 1e-10
    assert counts[0] < counts[1] < counts[2]
    rising = accepted_times(model, run(model, plan, x), 0.02, 1.0)
    assert bool((rising.diff() > 0).all())
    with pytest.raises(ValueError, match="two different finite"):
        accepted_times(model, x, 1.0, 0.0)


@pytest.mark.parametrize("atol, rtol", [(1.0, 0.0), (0.3, 0.7)])
def test_one_adaptive_step_is_accepted_up_to_its_tolerance(atol, rtol):
    """On D = g x its error is known: tolerances a hair above it take the step, a hair below it do not."""
    gain, (start, end) = 0.6, (0.6, 0.5)
    x = torch.tensor([[1.3, -0.4], [0.2, 0.9]], dtype=torch.float64)
    model = Denoiser(lambda x, t: gain * x, PROCESS, DATA)
    alpha, sigma = (
        f(torch.tensor([start, end], dtype=torch.float64)) for f in (PROCESS.alpha, PROCESS.sigma)
    )
    h = (alpha / sigma).log().diff()
    ahead = (sigma[1] / sigma[0] + alpha[1] * (1 - (-h).exp()) * gain) * x
    correction = alpha[1] * (1 - (1 - (-h).exp()) / h) * gain * (ahead - x)
    units = correction / (atol + rtol * torch.maximum(x.abs(), ahead.abs()))
    error = float(units.square().mean(1).sqrt().max())

    def tried(share):
        return accepted_times(
            model, x, start, end, atol=share * error * atol, rtol=share * error * rtol, first=9.0, most=1
        )

    assert tried(1 + 1e-9).tolist() == [start, end]
    with pytest.raises(RuntimeError, match="1 attempts at t=0.6, expected the end"):
        tried(1 - 1e-9)


@pytest.mark.parametrize("zeta", [0.5, 0.9, 0.999])
@pytest.mark.parametrize("z", [-0.4, -0.05, 0.3])
def test_mccallum_foster_matrix(zeta, z):
    """T9: on x' = lambda x, z = h lambda, the step's matrix has the published trace and determinant."""
    from pullback.solvers import FLOW, FlowEuler

    plan = Coupled(FlowEuler(), zeta).plan(RectifiedFlow(), torch.tensor([0.7, 0.6]))
    model = Denoiser(lambda x, t: (-z / 0.1) * x, RectifiedFlow(), FLOW)  # u = lambda x with h = -0.1
    back = plan.inverse()
    inverse = torch.stack(
        [torch.stack([_undone(model, back, e)[k] for k in range(2)]) for e in torch.eye(2)], 1
    )
    matrix = torch.linalg.inv(inverse)
    assert torch.allclose(matrix.det(), torch.tensor(zeta), atol=1e-12)
    assert torch.allclose(matrix.trace(), torch.tensor(1 + zeta - (1 - zeta) * -z + z * z), atol=1e-12)


def _undone(model, back, pair):
    """One inverse step of the pair, before the copy that the first step made is dropped."""
    program = prepare(back, model, torch.zeros(1, 1))
    registers = {"x": pair[:1, None], "y": pair[1:, None]}
    keep = [item._replace(dead=()) for item in program.ops]
    out = execute(
        Program(back, tuple(keep)), registers, lambda call, state: predict(model, call, state, None), None
    )
    return out["x"].squeeze(), out["y"].squeeze()


def test_a_wrong_coefficient_would_be_seen():
    """The inverse of one plan applied to the registers of another is not the identity: the laws above can fail."""
    model, x = MIXTURE.denoiser(PROCESS), torch.randn(3, 2)
    plans = [OBELM().plan(PROCESS, UniformLambda(8, end=e)) for e in (0.02, 0.03)]
    assert (decode(model, plans[1], encode(model, plans[0], x), dtype=torch.float64) - x).abs().max() > 1e-3
    assert not torch.allclose(expand(plans[0])[-1], expand(plans[1])[-1])
