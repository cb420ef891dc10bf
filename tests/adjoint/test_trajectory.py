"""Losses on states along the way, under every strategy."""

import warnings

import pytest
import torch
from everything import assert_same
from problems import MIXTURE, PROCESS

from pullback.adjoint import (
    AdjointDEIS,
    Checkpoint,
    Continuous,
    Direct,
    Mechanism,
    Reversible,
    States,
    Truncated,
    sample,
    trajectory,
)
from pullback.solvers import (
    BDIA,
    DDIM,
    DDPM,
    EDICT,
    OBELM,
    Addressed,
    DPMSolverPP,
    ReversibleHeun,
    Rex,
    UniformLambda,
)

GRID = UniformLambda(6, start=0.9, end=0.05)
EXACT = [Checkpoint(), Checkpoint(mechanism=Mechanism.REGION), Checkpoint(offload=True), Truncated(9)]


def gradients(method, strategy, at=(0, 2, 5, 6), order=1, fine=1):
    torch.manual_seed(0)
    grid = UniformLambda(6 * fine, start=0.9, end=0.05)
    plan, model = method.plan(PROCESS, grid), MIXTURE.denoiser(PROCESS)
    x, cond, controls = (
        torch.randn(3, 2, requires_grad=True),
        torch.zeros(2, requires_grad=True),
        torch.zeros(6 * fine, 3, 2),
    )
    nodes = [k * fine for k in at]
    states = trajectory(
        model,
        plan,
        x,
        nodes,
        cond=cond,
        controls=controls.requires_grad_(),
        noise=Addressed(0),
        gradient=strategy,
    )
    total = torch.stack([(k + 1) * s.square().sum() for k, s in enumerate(states)]).sum()
    grads = torch.autograd.grad(total, [x, cond, controls], create_graph=order == 2)
    if order == 2:
        grads += torch.autograd.grad(torch.stack([g.square().sum() for g in grads]).sum(), [x, cond])
    return [*states, *grads]


@pytest.mark.parametrize("strategy", EXACT, ids=str)
@pytest.mark.parametrize("method", [DPMSolverPP(2), DDPM()], ids=str)
def test_exact_strategies_equal_direct(method, strategy):
    assert_same(gradients(method, strategy), gradients(method, Direct()))
    assert_same(gradients(method, strategy, order=2), gradients(method, Direct(), order=2), 1e-10)


def test_reversible_and_continuous():
    assert_same(gradients(ReversibleHeun(), Reversible()), gradients(ReversibleHeun(), Direct()), 1e-10)
    assert_same(
        gradients(ReversibleHeun(), Reversible(), order=2),
        gradients(ReversibleHeun(), Direct(), order=2),
        1e-10,
    )
    same = Continuous(method=DPMSolverPP(2), states=States.RECORDED)
    assert_same(gradients(DPMSolverPP(2), same), gradients(DPMSolverPP(2), Direct()), 1e-10)
    for strategy in (Continuous(), AdjointDEIS()):  # approximate, so only near
        for got, want in zip(
            gradients(DDIM(), strategy, fine=40), gradients(DDIM(), Direct(), fine=40), strict=True
        ):
            assert float((got - want).norm()) < 0.15 * float(want.norm())


def test_only_an_intermediate_state_is_used():
    for strategy in EXACT:
        assert_same(
            gradients(DPMSolverPP(2), strategy, at=(3,)), gradients(DPMSolverPP(2), Direct(), at=(3,))
        )


def test_the_states_are_those_of_the_run():
    plan, x, seen = DPMSolverPP(2).plan(PROCESS, GRID), torch.randn(3, 2), []
    model = MIXTURE.denoiser(PROCESS)
    sample(model, plan, x, callback=lambda k, t, state: seen.append(state))
    for k, state in zip(range(7), trajectory(model, plan, x, range(7)), strict=True):
        assert torch.equal(state, seen[k])


def test_refusals():
    plan, x = DPMSolverPP(2).plan(PROCESS, GRID), torch.randn(3, 2, requires_grad=True)
    for at in ([], [7], [-1]):
        with pytest.raises(ValueError, match="expected nodes between 0 and 6"):
            trajectory(MIXTURE.denoiser(PROCESS), plan, x, at)
    with pytest.raises(ValueError, match=r"losses at the states of steps \[1\]"):
        trajectory(MIXTURE.denoiser(PROCESS), plan, x, [1, 2], gradient=Continuous(3))


def test_a_plan_whose_states_lie_beside_the_nodes_says_so():
    """BDIA's x at node 3 is that of node 2: a loss there would be on another time."""
    model, x = MIXTURE.denoiser(PROCESS), torch.randn(3, 2)
    for method in (BDIA(), OBELM(), ReversibleHeun()):
        plan = method.plan(PROCESS, GRID)
        with pytest.warns(UserWarning, match=r"keeps a state beside the node's .* at nodes \(3,\)"):
            trajectory(model, plan, x, [3, 6])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trajectory(model, plan, x, [0, 6])  # its ends are those of any plan
        for method in (DPMSolverPP(2), EDICT(), Rex()):
            trajectory(model, method.plan(PROCESS, GRID), x, range(7))
