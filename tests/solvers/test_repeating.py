"""Repeating: steps of length zero, where they are meant."""

import pickle

import pytest
import torch
from problems import PROCESS, every_method, thinned, warped
from torch import nn

from pullback.adjoint import AdjointDEIS, Checkpoint, Continuous, Direct, Reversible, sample, trajectory
from pullback.solvers import (
    BDIA,
    DATA,
    DDIM,
    DDPM,
    DEIS,
    Denoiser,
    DPMSolverPP,
    GivenNoise,
    GivenTimes,
    Repeating,
    Rising,
    SASolver,
    Transitions,
    UniformLambda,
    UniPC,
    moments,
    run,
)

BARE = PROCESS.time(warped(5))
# of the nodes of BARE: one more at the start, two more in the middle
PLACES = torch.tensor([0, 0, 1, 2, 2, 2, 3, 4, 5])
TIMES = BARE[PLACES]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 2))

    def forward(self, x, t):
        return self.body(torch.cat([x, t[:, None]], 1)) + 0.3 * x


@pytest.mark.parametrize("method", thinned(every_method()), ids=str)
def test_a_step_of_length_zero_is_the_identity_and_no_history(method):
    model, x = Denoiser(Net(), PROCESS, DATA), torch.randn(3, 2)
    base, plan = method.plan(PROCESS, BARE), method.plan(PROCESS, Repeating(TIMES))
    noise = GivenNoise(torch.randn(max(plan.slots, 1), 3, 2))
    assert (plan.nfe, plan.slots, plan.steps, base.steps) == (base.nfe, base.slots, 8, 5)
    assert torch.equal(run(model, plan, x, noise=noise), run(model, base, x, noise=noise))
    states = trajectory(model, plan, x, range(9), noise=noise if plan.slots else None)
    bare = trajectory(model, base, x, range(6), noise=noise if plan.slots else None)
    assert all(torch.equal(state, bare[k]) for state, k in zip(states, PLACES, strict=True))
    assert pickle.loads(pickle.dumps(plan)) == plan and str(plan).count("x <- +1 x\n") >= 3


@pytest.mark.parametrize(
    "method", [UniPC(2), SASolver(2, 3, tau=0.0), SASolver(3, 4), SASolver(1, 2)], ids=str
)
def test_a_last_node_that_comes_twice_asks_for_the_last_correction(method):
    """The state there is what the plan with a node more has when it gets there."""
    model, x = Denoiser(Net(), PROCESS, DATA), torch.randn(3, 2)
    longer, twice = method.plan(PROCESS, BARE), method.plan(PROCESS, Repeating(BARE[[0, 1, 2, 3, 4, 4]]))
    noise = torch.randn(max(longer.slots, 1), 3, 2)
    assert twice.nfe == longer.nfe and twice.steps == longer.steps
    want = trajectory(model, longer, x, [4], noise=noise if longer.slots else None)[0]
    assert torch.allclose(run(model, twice, x, noise=noise), want, atol=1e-14)


@pytest.mark.parametrize("method", [DPMSolverPP(2), DEIS(2), DDPM(), BDIA()], ids=str)
def test_exact_strategies_and_controls(method):
    network, x = Net(), torch.randn(3, 2, requires_grad=True)
    plan = method.plan(PROCESS, Repeating(TIMES))
    noise = torch.randn(max(plan.slots, 1), 3, 2) if plan.slots else None
    controls = torch.randn(8, 3, 2, requires_grad=True)

    def found(strategy):
        out = sample(
            Denoiser(network, PROCESS, DATA), plan, x, noise=noise, controls=controls, gradient=strategy
        )
        return [out, *torch.autograd.grad(out.square().sum(), [x, controls, *network.parameters()])]

    want = found(Direct())
    strategies = [Checkpoint(), Checkpoint(recursive=True)] + [Reversible()] * isinstance(method, BDIA)
    for strategy in strategies:
        for a, b in zip(found(strategy), want, strict=True):
            assert torch.allclose(a, b, rtol=1e-11, atol=1e-12)
    assert bool((want[2][[0, 1, 3, 4, 5]].abs() > 1e-6).any())
    assert torch.equal(want[2][0], want[2][1]) and torch.equal(want[2][3], want[2][5])


def test_readings_of_such_a_plan():
    plan, base = DDPM().plan(PROCESS, Repeating(TIMES)), DDPM().plan(PROCESS, BARE)
    assert moments(plan, 0.3, 0.25, 0.0, 1.0) == moments(base, 0.3, 0.25, 0.0, 1.0)
    assert Transitions(plan).excluded == (0, 3, 4)
    for strategy in (Continuous(), AdjointDEIS()):
        with pytest.raises(ValueError, match="expected one that falls"):
            x = torch.randn(2, 2, requires_grad=True)
            deterministic = DPMSolverPP(2).plan(PROCESS, Repeating(TIMES))
            sample(Denoiser(Net(), PROCESS, DATA), deterministic, x, gradient=strategy)


def test_they_must_be_meant():
    for grid in (TIMES, GivenTimes(TIMES), TIMES.tolist()):
        with pytest.raises(ValueError, match=r"expected strictly falling .* or write Repeating\(grid\)"):
            DDIM().plan(PROCESS, grid)
    with pytest.raises(ValueError, match="9 times that are one, expected two that differ"):
        DDIM().plan(PROCESS, Repeating(9 * [0.5]))
    with pytest.raises(ValueError, match="expected strictly falling"):
        DDIM().plan(PROCESS, Repeating([0.5, 0.5, 0.7, 0.2]))
    plain = UniformLambda(4, start=0.9, end=0.1)
    assert DDIM().plan(PROCESS, Repeating(plain)) == DDIM().plan(PROCESS, plain)
    up = DDIM().plan(PROCESS, Rising(Repeating(TIMES)))
    assert up == DDIM().plan(PROCESS, Repeating(Rising(Repeating(TIMES))))
    first, last = up.times[0], up.times[-1]
    assert isinstance(first, float) and isinstance(last, float) and first < last
    with pytest.raises(ValueError, match="rising grid"):
        DDPM().plan(PROCESS, Rising(Repeating(TIMES)))
    assert "Repeating(" in repr(Repeating(plain))


def test_per_sample_grids():
    grids = torch.stack([TIMES, 0.9 * TIMES], 1)
    model, x = Denoiser(Net(), PROCESS, DATA), torch.randn(2, 2)
    together = run(model, DPMSolverPP(2).plan(PROCESS, Repeating(grids)), x)
    alone = [run(model, DPMSolverPP(2).plan(PROCESS, Repeating(grids[:, k])), x[k : k + 1]) for k in (0, 1)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-13)
    with pytest.raises(ValueError, match="expected strictly falling"):
        DDIM().plan(PROCESS, Repeating(torch.stack([TIMES, torch.linspace(0.9, 0.1, 9)], 1)))
