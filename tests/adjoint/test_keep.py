"""Checkpoint under a memory budget: exact whatever it keeps, within the budget, and as fast as the choice says."""

import functools
import math

import pytest
import torch
from everything import GRID, assert_same, by_autograd, everything
from problems import MIXTURE, PROCESS, every_method, thinned
from torch import nn

from pullback.adjoint import Checkpoint, Direct, Mechanism, Reversible, Truncated, sample
from pullback.adjoint.choosing.peak import Peak
from pullback.adjoint.replay.schedule import choose, reruns
from pullback.solvers import DATA, DDPM, Addressed, Denoiser, DPMSolverPP, UniformLambda

STATE = 5 * 3 * 8
BUDGETS = [
    Checkpoint(recursive=True),
    Checkpoint(memory_budget=10**9),
    Checkpoint(memory_budget=20_000),
    Checkpoint(recursive=True, offload=True),
]


@pytest.mark.parametrize("strategy", BUDGETS, ids=str)
@pytest.mark.parametrize("method", thinned(every_method()), ids=str)
def test_exact_whatever_is_kept(method, strategy, device):
    assert_same(
        everything(method, strategy, dropout=0.3, device=device),
        by_autograd(method, dropout=0.3, device=device),
    )


@functools.cache
def best(length, slots):
    """The fewest reruns by dynamic programming; a leaf is one step, run once to have its state."""
    if length == 1:
        return 1
    if slots == 0:
        return length * (length + 1) // 2
    return min(first + best(length - first, slots - 1) + best(first, slots) for first in range(1, length))


@pytest.mark.parametrize("slots", [1, 2, 3, 5])
@pytest.mark.parametrize("length", [2, 3, 7, 20, 60])
def test_the_schedule_is_the_binomial_one(length, slots):
    assert reruns(length, slots, 1) == best(length, slots)


def problem(n, strategy):
    calls = []

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(3, 64), nn.Tanh(), nn.Linear(64, 3))

        def forward(self, x, t):
            calls.append(1)
            return self.body(x)

    torch.manual_seed(0)
    net, x = Net(), torch.randn(4, 3, requires_grad=True)
    plan = DPMSolverPP(2).plan(PROCESS, UniformLambda(n, start=0.9, end=0.05))
    out = sample(Denoiser(net, PROCESS, DATA), plan, x, gradient=strategy)
    grads = torch.autograd.grad(out.square().sum(), [x, *net.parameters()])
    return [out, *grads], len(calls)


@pytest.mark.parametrize("n", [1, 2, 5, 30])
@pytest.mark.parametrize("budget", [3_000, 4_500, 6_000, 8_000, 40_000, 10**8])
def test_a_budget_is_kept_and_stated(n, budget):
    """Activation of a call 2.2 KB, a state 96 bytes: from recursion to all activations; calls as stated,
    within 10 %.
    """
    said = []
    strategy = Checkpoint(memory_budget=budget, recursive=True, observe=said.append)
    found, calls = problem(n, strategy)
    exact, _ = problem(n, Direct())
    assert_same(found, exact)
    (keep,) = said
    assert str(n) in str(keep)
    assert calls <= keep.forwards * 1.1 + 1
    if budget == 10**8:
        assert calls == n + 1  # only the first call, whose activations were measured, is replayed


def test_recursion_is_logarithmic():
    said = []
    _, calls = problem(100, Checkpoint(recursive=True, observe=said.append))
    assert said[0].slots == math.ceil(math.log2(100)) and calls < 5 * 100


@pytest.mark.parametrize("strategy", [Checkpoint(), Checkpoint(recursive=True)], ids=str)
@pytest.mark.parametrize("n", [1, 2, 5, 30])
def test_the_cost_is_what_is_called(n, strategy):
    """But for the one call more whose activations are measured."""
    _, calls = problem(n, strategy)
    stated, backward = strategy.cost(DPMSolverPP(2).plan(PROCESS, UniformLambda(n, start=0.9, end=0.05)))
    assert stated <= calls <= stated + 1 and backward == n


def test_the_choices_in_order():
    """More memory is never slower; too little is an error that names the least."""
    costs = [choose(100, 100, 10, 20, 1000, budget, True).forwards for budget in range(1100, 20000, 100)]
    assert costs == sorted(costs, reverse=True) and costs[-1] < 200 < costs[0]
    with pytest.raises(ValueError, match="expected at least 1030"):
        choose(100, 100, 10, 20, 1000, 1010, True)
    with pytest.raises(
        ValueError, match="expected at least 1283 .*recursive=True"
    ):  # 2 sqrt(100 * 20 * 10) more
        choose(100, 100, 10, 20, 1000, 1100, False)
    assert choose(100, 100, 10, 20, 1000, 1283, False).leaf == 14
    with pytest.raises(ValueError, match="expected at least 1000"):  # offloaded states take nothing
        choose(100, 100, 0, 0, 1000, 999, False)
    with pytest.raises(ValueError, match="memory choice for regions"):
        Checkpoint(recursive=True, mechanism=Mechanism.REGION)


def bytes_of(width, n, strategy):
    """Peak of a value and a gradient, and what is held between the two, in states."""
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(64, width), nn.Tanh(), nn.Linear(width, 64)), torch.randn(64, 64)
    x.requires_grad_()
    plan = DPMSolverPP(1).plan(PROCESS, UniformLambda(n, start=0.9, end=0.05))
    with Peak(x.device) as ledger:
        out = sample(Denoiser(lambda x, t: net(x), PROCESS, DATA), plan, x, gradient=strategy)
        between = ledger.held
        out.sum().backward()
    return ledger.bytes / x.nbytes, between / x.nbytes


def test_no_activation_stays_of_the_call_that_was_measured():
    """A node that holds its own output, as that of tanh does here, 16 states of it, would never die."""
    assert bytes_of(1024, 3, Checkpoint(recursive=True))[1] < 8


def test_recursion_holds_no_state_that_it_passes_by():
    """Two snapshots: up to thirty steps lie between them."""
    budget = Checkpoint(memory_budget=int(4.2 * 64 * 64 * 8), recursive=True)
    assert bytes_of(64, 48, budget)[0] < 20


@pytest.mark.parametrize("calls", [1, 7, 40])
def test_activations_fill_what_the_states_leave(calls):
    """But for one call's, which any backward pass holds; no more than there are calls."""
    state, activation = 30, 1000
    for budget in range(calls * state + activation, calls * (state + activation) + 2500, 250):
        kept = choose(calls, calls, state, 2 * state, activation, budget, False).activations
        left = budget - calls * state - (kept + 1) * activation
        assert 0 <= left and (left < activation or kept == calls), budget


@pytest.mark.parametrize("strategy", BUDGETS, ids=str)
def test_second_backward_truncation_and_double_backward(strategy):
    method = DDPM()
    plan, model, found = method.plan(PROCESS, GRID), MIXTURE.denoiser(PROCESS), []
    for inner in (strategy, Direct()):
        controls = torch.zeros(6, 3, 2, requires_grad=True)
        out = sample(
            model,
            plan,
            torch.ones(3, 2),
            controls=controls,
            noise=Addressed(0),
            gradient=Truncated(4, inner=inner),
        )
        found.append(torch.autograd.grad(out.square().sum(), controls))
    assert_same(*found)
    assert_same(everything(method, strategy, order=2), by_autograd(method, order=2), 1e-10)
    x = torch.randn(3, 2, requires_grad=True)
    out = sample(
        MIXTURE.denoiser(PROCESS), method.plan(PROCESS, GRID), x, noise=Addressed(0), gradient=strategy
    ).sum()
    first, again = (torch.autograd.grad(out, x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, again)
    assert Reversible().cost(method.plan(PROCESS, GRID)) == (12, 6)
