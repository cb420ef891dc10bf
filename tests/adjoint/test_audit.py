"""audit: its figures against what is known of each strategy."""

import warnings

import pytest
import torch
from problems import MIXTURE, PROCESS
from torch import nn

from pullback.adjoint import (
    AdjointDEIS,
    Checkpoint,
    Continuous,
    Direct,
    JacobianFree,
    Reversible,
    Truncated,
    audit,
)
from pullback.solvers import DATA, NOISE, Denoiser, DPMSolverPP, EDMHeun, ReversibleHeun, UniformLambda


def test_the_table_knows_its_strategies():
    plan = DPMSolverPP(2).plan(PROCESS, UniformLambda(30, start=0.95, end=0.02))
    other = ReversibleHeun().plan(PROCESS, UniformLambda(29, start=0.95, end=0.02))
    x, cond = torch.randn(4, 2, requires_grad=True), torch.zeros(2, requires_grad=True)
    found = audit(
        MIXTURE.denoiser(PROCESS),
        plan,
        x,
        lambda out: out.square().flatten(1).sum(1),
        {
            "checkpoint": Checkpoint(),
            "reversible": (Reversible(), other),
            "continuous": Continuous(15),
            "published": AdjointDEIS(2),
        },
        cond=cond,
        repeats=1,
    )
    rows = {row.name: row for row in found.rows}
    exact = rows["Direct (reference)"]
    assert exact.error == 0 and exact.ratio == 1 and exact.calls == 30 and exact.vjps == 30
    assert rows["checkpoint"].error < 1e-12 and rows["checkpoint"].calls == 60
    # another plan of the same order: another sample, and a gradient close to it
    assert 0 < rows["reversible"].error < 0.1 and rows["reversible"].reconstruction < 1e-10  # type: ignore[operator]
    assert (
        0 < rows["continuous"].error < 0.1
        and rows["continuous"].vjps == 15
        and rows["continuous"].calls == 46
    )
    assert rows["published"].cosine > 0.9
    assert all(name in str(found) for name in rows) and len(found.figure().axes) == 1


def test_memory_is_that_of_the_strategy():
    """Direct holds an activation a step, Checkpoint one and the states."""
    network = nn.Sequential(nn.Linear(64, 4096), nn.Tanh(), nn.Linear(4096, 64))
    model = Denoiser(lambda x, t: network(x), PROCESS, DATA)
    plan = DPMSolverPP(2).plan(PROCESS, UniformLambda(20, start=0.95, end=0.02))
    x = torch.randn(64, 64, requires_grad=True)
    direct, checkpoint = audit(
        model, plan, x, lambda out: out.sum(), {"checkpoint": Checkpoint()}, repeats=1
    ).rows
    activation = 64 * 4096 * 8
    assert direct.memory > 20 * activation and checkpoint.memory < 8 * activation


def test_nothing_to_differentiate():
    plan = DPMSolverPP(2).plan(PROCESS, UniformLambda(3, start=0.95, end=0.02))
    with pytest.raises(ValueError, match="nothing|no input"):
        audit(MIXTURE.denoiser(PROCESS), plan, torch.randn(1, 2), lambda out: out.sum(), {"direct": Direct()})


def test_a_strategys_warning_comes_once():
    """Not once for each of its runs."""
    plan = DPMSolverPP(2).plan(PROCESS, UniformLambda(4, start=0.95, end=0.02))
    x, cond = torch.randn(2, 2, requires_grad=True), torch.zeros(2, requires_grad=True)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        audit(MIXTURE.denoiser(PROCESS), plan, x, lambda out: out.square().flatten(1).sum(1),
              {"truncated": Truncated(2), "free": JacobianFree()}, cond=cond)  # fmt: skip
    texts = [str(each.message) for each in said]
    assert texts and len(set(texts)) == len(texts)


@pytest.mark.parametrize("posterior_mean", [pytest.param(True, marks=pytest.mark.slow), False])
def test_the_estimate_of_the_flow(posterior_mean):
    """It says which of two is nearer to the flow's own gradient, and how far they are, where they differ clearly."""
    torch.manual_seed(1)
    body = nn.Sequential(nn.Linear(4, 24), nn.SiLU(), nn.Linear(24, 2)).requires_grad_(False)

    def random_noise(x, t):
        return body(torch.cat([x, torch.stack([t.cos(), t.sin()], 1).to(x)], 1))

    model = MIXTURE.denoiser(PROCESS) if posterior_mean else Denoiser(random_noise, PROCESS, NOISE)
    plan, fine = (DPMSolverPP(2).plan(PROCESS, UniformLambda(n, start=0.95, end=0.02)) for n in (30, 200))
    x, continuous = torch.randn(6, 2, requires_grad=True), Continuous()

    def loss(out):
        return (out - 1).square().sum(1)

    found = audit(model, plan, x, loss, {"continuous": continuous, "half": Continuous(15)}, repeats=1)
    pair = {"exact": (Direct(), plan), "continuous": (continuous, plan)}
    _, exact, ours = audit(model, fine, x, loss, pair, repeats=1).rows
    first, second, _ = (row.flow for row in found.rows)
    assert first is not None and second is not None and found.nearest is not None
    assert (second < first) == (ours.error < exact.error) == posterior_mean, (exact, ours, found)
    assert 0.15 < second / ours.error < 7 and found.nearest.name in str(found)


def test_no_estimate_without_a_continuous_adjoint():
    plan = DPMSolverPP(2).plan(PROCESS, UniformLambda(6, start=0.95, end=0.02))
    x, controls = torch.randn(2, 2, requires_grad=True), torch.zeros(6, 2, 2, requires_grad=True)
    for strategies, given in (({"checkpoint": Checkpoint()}, None), ({"continuous": Continuous()}, controls)):
        found = audit(
            MIXTURE.denoiser(PROCESS), plan, x, lambda out: out.sum(1), strategies, controls=given, repeats=1
        )
        assert found.nearest is None and all(row.flow is None for row in found.rows)


def test_no_estimate_of_a_run_with_two_calls_a_step():
    """There it names the wrong one."""
    plan = EDMHeun().plan(PROCESS, UniformLambda(4, start=0.95, end=0.02))
    x = torch.randn(2, 2, requires_grad=True)
    found = audit(
        MIXTURE.denoiser(PROCESS), plan, x, lambda out: out.sum(1), {"continuous": Continuous()}, repeats=1
    )
    assert found.nearest is None and all(row.flow is None for row in found.rows)
