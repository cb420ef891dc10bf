"""Auto: what is chosen is the fastest exact strategy that fits, as predicted; predictions of bytes are right."""

import gc
import math
import pathlib
import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from everything import assert_same, everything
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import PROCESS
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from two_ranks import two_ranks

from pullback.adjoint import (
    Auto,
    Checkpoint,
    Direct,
    GradientPlan,
    JacobianFree,
    Mechanism,
    Reversible,
    Truncated,
    plan_gradient,
    sample,
)
from pullback.adjoint.choosing.call_cost import CallCost
from pullback.adjoint.choosing.forecast import Forecast, Limits
from pullback.adjoint.choosing.outlook import Outlook
from pullback.adjoint.choosing.own_cost import Own, OwnCost
from pullback.adjoint.choosing.peak import Peak
from pullback.solvers import (
    DATA,
    DDPM,
    Addressed,
    Apply,
    ClassifierFree,
    Denoiser,
    DPMSolverPP,
    EDMHeun,
    Method,
    Plan,
    ReversibleHeun,
    UniformLambda,
)

LIMITS = st.builds(
    Limits,
    st.none() | st.integers(1, 10**7),
    st.none() | st.floats(1e-3, 10),
    st.none() | st.integers(1, 200),
)
# what a run might be, without one
CALL = st.builds(
    lambda f, g, v, saved, extra, through: CallCost(
        f, g, v, saved, saved + extra, saved + 2 * extra, 2 * saved + 2 * extra, 2 * saved + 3 * extra, saved, 0,
        saved, extra, through,
    ),
    *[st.floats(1e-4, 0.1)] * 3, st.integers(0, 50_000), st.integers(0, 10_000), st.booleans(),
)  # fmt: skip
OWN = OwnCost(*[Own(1e-3, k * 1e-5) for k in range(1, 7)])
OUTLOOKS = st.builds(
    lambda n, state, cost, one_way, captured: Outlook(
        n, n, 3, 2.0, state, 16, state, 2 * state, cost, OWN, captured, one_way
    ),
    st.integers(1, 60), st.integers(8, 5000), CALL, st.sampled_from(["", "no inverse"]),
    st.sampled_from(["", "", "captured"]),
)  # fmt: skip


class Net(nn.Module):
    """Counts its calls; `middle` stands between its layers."""

    def __init__(self, *middle, width=64, calls=None):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, width), *middle, nn.Tanh(), nn.Linear(width, 8))
        self.calls = calls

    def forward(self, x, t, cond=None):
        if self.calls is not None:
            self.calls.append(1)
        out = self.body(x) * (1 + t[:, None])
        return out if cond is None else out + cond


def problem(
    method: Method = DPMSolverPP(2), n: int = 9, net: nn.Module | None = None, batch: int = 16
) -> tuple[Any, Plan, Tensor]:
    torch.manual_seed(0)
    net, x = net or Net(), torch.randn(batch, 8, requires_grad=True)
    return Denoiser(net, PROCESS, DATA), method.plan(PROCESS, UniformLambda(n, start=0.9, end=0.05)), x


def grads(model, plan, x, gradient, **more):
    out = sample(model, plan, x, gradient=gradient, **more)
    return [out, *torch.autograd.grad(out.square().sum(), [x, *model.parameters()])]


def row(plan, strategy):
    return next(each for each in plan.forecasts if each.strategy == strategy)


def memory_of(forecast: Forecast) -> int:
    assert forecast.memory is not None
    return forecast.memory


@settings(deadline=None, max_examples=60)
@given(OUTLOOKS, LIMITS)
def test_the_choice_is_the_fastest_of_all_that_fit_and_never_exceeds_a_limit(outlook, limits):
    rows = list(outlook.forecasts(limits.memory))
    table = GradientPlan(tuple(rows[::-1]), limits)

    def fits(each):
        return not each.why_not and all(
            most is None or got is not None and got <= most
            for got, most in zip(
                (each.memory, each.seconds, each.calls),
                (limits.memory, limits.deadline, limits.calls),
                strict=True,
            )
        )

    fitting = [each for each in rows if fits(each)]
    if not fitting:
        with pytest.raises(ValueError, match="nearest takes"):
            _ = table.best
        return
    best = table.best
    assert fits(best) and best.seconds == min(each.seconds for each in fitting)


def test_seconds_are_the_calls_that_each_strategy_makes():
    """F, G, V = 1, 10, 100 s: each digit is a count."""
    call = CallCost(1.0, 10.0, 100.0, 1, 1, 1, 1, 1, 500, 0, 500, 0, True)
    outlook = Outlook(8, 8, 3, 2.0, 10, 1, 10, 20, call, OwnCost(*[Own(0.0, 0.0)] * 6))
    assert outlook.direct().seconds == 880 and outlook.every_state().seconds == 888
    assert outlook.regions().seconds == 960 and outlook.reversible().seconds == 888
    for k in range(1, 8):  # N states, k activations, and one more for the VJP under way
        keep = outlook.keep(80 + 500 * (k + 1))
        assert keep.activations == k and outlook.kept(keep, Checkpoint()).seconds == 888 - k
    assert replace(outlook, cost=replace(call, seen_through=False)).every_state().seconds == 960


@pytest.mark.parametrize("method", [DPMSolverPP(2), EDMHeun(), ReversibleHeun()], ids=str)
def test_calls_are_those_that_are_made(method):
    calls = []
    model, plan, x = problem(method, 10, Net(calls=calls))
    direct = row(plan_gradient(model, plan, x), Direct())
    for each in plan_gradient(model, plan, x, memory=memory_of(direct) // 2).forecasts:
        if not each.why_not:
            del calls[:]
            sample(model, plan, x, gradient=each.strategy).sum().backward()
            assert abs(len(calls) - each.calls) <= 1 + each.calls // 10, each


def test_the_table_and_the_nearest():
    fast, small = (Forecast(Direct(), 1.0, 3 * 2**20, 10, 10), Forecast(Checkpoint(), 1.5, 2**20, 20, 10))
    never = Forecast(Reversible(), math.inf, None, 20, 10, "no <inverse>")
    table = GradientPlan((fast, small, never), Limits(memory=2**21))
    assert table.strategy == Checkpoint()
    lines = str(table).splitlines()
    assert lines[1].endswith("1.00 MiB over memory")
    assert lines[2].endswith("chosen") and "no <inverse>" in lines[3] and "2.00 MiB" in lines[4]
    assert "no &lt;inverse&gt;" in table._repr_html_()
    with pytest.raises(ValueError, match=r"calls=5.*Direct\(\): 3.00 MiB, 1 s, 10 calls"):
        _ = replace(table, limits=Limits(calls=5)).strategy
    with pytest.raises(ValueError, match=r"memory=512.00 KiB.*Checkpoint\(\): 1.00 MiB"):
        _ = replace(table, limits=Limits(memory=2**19)).strategy
    assert "500 ms past the deadline" in GradientPlan((small,), Limits(deadline=1.0)).why_not(small)


def measured_peak(model, plan, x, strategy, noise=None):
    sample(model, plan, x, noise=noise, gradient=strategy).sum().backward()
    for value in (x, *model.parameters()):
        value.grad = None
    with Peak(x.device) as ledger:
        sample(model, plan, x, noise=noise, gradient=strategy).sum().backward()
    return ledger.bytes


PEAKS = {
    "wide": (DPMSolverPP(2), 14, lambda: Net(width=512), 4),
    "frozen": (DDPM(), 12, lambda: Net(nn.SiLU()).requires_grad_(False), 64),
    "large state": (ReversibleHeun(), 12, lambda: Net(width=16), 64),
    "two calls a step": (EDMHeun(), 7, lambda: Net(width=128), 16),
    "deep": (
        DPMSolverPP(2),
        8,
        lambda: Net(*(m for _ in range(3) for m in (nn.Tanh(), nn.Linear(64, 64)))),
        24,
    ),
}


@pytest.mark.parametrize("name", PEAKS)
def test_predicted_peaks_are_the_measured_ones(name):
    """Within 10 %, of every strategy without a limit and under two: room for some activations, or for few states."""
    method, n, net, batch = PEAKS[name]
    model, plan, x = problem(method, n, net(), batch)
    noise = Addressed(0) if plan.slots else None
    free = plan_gradient(model, plan, x, noise=noise)
    direct, every = (memory_of(row(free, strategy)) for strategy in (Direct(), Checkpoint()))
    seen = {str(each.strategy): each for each in free.forecasts}
    for memory in ((direct + every) // 2, 9 * every // 10):
        table = plan_gradient(model, plan, x, noise=noise, memory=memory)
        seen |= {str(each.strategy): each for each in table.forecasts}
    possible = [each for each in seen.values() if not each.why_not]
    assert len(possible) >= 4
    for each in possible:
        peak = measured_peak(model, plan, x, each.strategy, noise)
        assert abs(memory_of(each) - peak) < 0.1 * peak, (each, peak)


def test_by_regions_where_one_node_cannot_be():
    net, gain = Net(), torch.tensor(0.7, requires_grad=True)
    captured = gain + 0.5  # with a graph of its own, that can be walked any number of times
    model, plan, x = problem(ReversibleHeun(), net=net)
    model = Denoiser(lambda x, t: net(x, t) * captured, PROCESS, DATA)
    table = plan_gradient(model, plan, x, memory=10**7)
    regions = row(table, Checkpoint(mechanism=Mechanism.REGION))
    assert table.strategy == Direct() and "captures" in row(table, Reversible()).why_not
    peak = measured_peak(model, plan, x, Checkpoint(mechanism=Mechanism.REGION))
    assert abs(memory_of(regions) - peak) < 0.1 * peak
    tight = Auto(memory=(memory_of(regions) + memory_of(row(table, Direct()))) // 2)
    assert_same(grads(model, plan, x, tight), grads(model, plan, x, Direct()))
    kept = gain.exp()  # whose graph the measured calls must leave whole
    model = Denoiser(lambda x, t: net(x, t) * kept, PROCESS, DATA)
    found = torch.autograd.grad(sample(model, plan, x, gradient=tight).sum(), gain)
    kept = gain.exp()
    assert_same(found, torch.autograd.grad(sample(model, plan, x, gradient=Direct()).sum(), gain))


@pytest.mark.parametrize("method", [DPMSolverPP(2), DDPM(), ReversibleHeun()], ids=str)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.97, 10.0])
def test_the_gradient_is_directs_whatever_is_chosen(method, share):
    """From the least memory that anything takes, by shares of what lies between it and that of Direct."""
    model, plan, x = problem(method)
    noise = Addressed(0) if plan.slots else None
    free = plan_gradient(model, plan, x, noise=noise)
    sizes = [memory_of(each) for each in free.forecasts if not each.why_not]
    memory = int(min(sizes) + share * (max(sizes) - min(sizes)))
    chosen = plan_gradient(model, plan, x, noise=noise, memory=memory).strategy
    assert (chosen == Direct()) == (share > 1)
    assert_same(
        grads(model, plan, x, Auto(memory=memory), noise=noise),
        grads(model, plan, x, Direct(), noise=noise),
        1e-10,
    )


@pytest.mark.parametrize("memory", [10**9, 45_000])
def test_everything_that_can_enter(memory):
    """Dropout, conditioning by step, noise, controls, a captured leaf."""
    assert_same(everything(DDPM(), Auto(memory=memory), 0.3), everything(DDPM(), Direct(), 0.3))


def test_without_limits_nothing_is_measured():
    calls = []
    model, plan, x = problem(net=Net(calls=calls))
    for strategy in (Auto(), Checkpoint()):
        sample(model, plan, x, gradient=strategy).sum().backward()
    assert len(calls) == 2 * 2 * plan.nfe
    del calls[:]
    with torch.no_grad():
        sample(model, plan, x, gradient=Auto(memory=1))
    model.network.requires_grad_(False)
    sample(model, plan, x.detach(), gradient=Auto(memory=1))
    assert len(calls) == 2 * plan.nfe  # where nothing wants a gradient nothing is chosen


def test_measured_once_for_a_network_and_a_batch_and_forgotten_with_it():
    calls = []
    model, plan, x = problem(net=Net(calls=calls))
    first = plan_gradient(model, plan, x)
    assert 12 <= len(calls) <= 40
    del calls[:]
    # another plan of the same method, another wrapper, another leaf of the same shape
    again = plan_gradient(
        Denoiser(model.network, PROCESS, DATA), plan, x.detach().requires_grad_(), memory=10**9
    )
    longer = problem(n=30)[1]
    plan_gradient(model, longer, x)
    assert not calls and row(again, Direct()) == row(first, Direct())
    plan_gradient(model, plan, x[:3])
    plan_gradient(model, plan, x.detach())
    model.network.body[0].requires_grad_(False)
    plan_gradient(model, plan, x)
    assert len(calls) >= 24  # another batch, and other weights that want a gradient, are another measurement
    gone = weakref.ref(model.network)
    del model, first, again
    gc.collect()
    assert gone() is None


def test_the_world_is_left_as_it_was():
    model, plan, x = problem(net=Net(nn.Dropout(0.5), nn.BatchNorm1d(64).eval()))
    first = next(model.network.parameters())
    seen = []
    first.register_hook(seen.append)
    random, buffers = torch.get_rng_state(), [value.clone() for value in model.network.buffers()]
    plan_gradient(model, plan, x)
    assert torch.equal(random, torch.get_rng_state()) and not seen and first.grad is None and x.grad is None
    assert all(torch.equal(*pair) for pair in zip(buffers, model.network.buffers(), strict=True))
    model.network.train()
    with pytest.raises(RuntimeError, match="buffer body.2.* changed by a network call.*eval"):
        plan_gradient(model, plan, x)
    assert all(torch.equal(*pair) for pair in zip(buffers, model.network.buffers(), strict=True))


def test_joint_states_guidance_truncation_and_other_gradients():
    net = Net()

    def joint(x, t):
        both = net(torch.cat([x["a"], x["b"]], 1), t)
        return {"a": both[:, :3], "b": both[:, 3:]}

    _, plan, x = problem()
    start = {"a": x.detach()[:, :3].requires_grad_(), "b": x.detach()[:, 3:].requires_grad_()}
    left, right = (
        torch.autograd.grad(out["a"].square().sum() + out["b"].square().sum(), list(start.values()))
        for gradient in (Auto(memory=60_000), Direct())
        for out in [sample(Denoiser(joint, PROCESS, DATA), plan, start, gradient=gradient)]
    )
    assert_same(left, right)
    guided = ClassifierFree(Denoiser(net, PROCESS, DATA), 3.0, torch.zeros(16, 8))
    cond = torch.randn(16, 8)
    table = plan_gradient(guided, plan, x, cond=cond, others=[JacobianFree(), Truncated(2)])
    plain = plan_gradient(Denoiser(net, PROCESS, DATA), plan, x, cond=cond)
    assert memory_of(row(table, Direct())) > 1.7 * memory_of(row(plain, Direct()))  # two calls in one
    assert row(table, JacobianFree()).why_not and row(table, Truncated(2)).vjps == 2
    left, right = (
        torch.autograd.grad(
            sample(guided, plan, x.detach(), cond=cond, gradient=Truncated(3, inner=inner)).square().sum(),
            list(net.parameters()),
        )
        for inner in (Auto(memory=10**9), Direct())
    )
    assert_same(left, right)


RANK = """
import sys
import torch, conftest
from torch.nn.parallel import DistributedDataParallel
from test_auto import *
rank = int(sys.argv[1])
torch.set_default_dtype(torch.float64)
torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
for options in ({}, {"static_graph": True}, {"find_unused_parameters": True}):
    model, plan, x = problem()
    alone = [p.grad for p in differentiated(model, plan, x, Direct())]
    replica = DistributedDataParallel(problem()[0].network, **options)
    shared = Denoiser(replica, PROCESS, DATA)
    own = x.detach()[8 * rank : 8 * rank + 8].requires_grad_()
    table = plan_gradient(shared, plan, own)
    sizes = sorted(each.memory for each in table.forecasts if not each.why_not)
    memory = 10**9 if rank else (sizes[-1] + sizes[-2]) // 2  # the ranks choose differently
    assert (plan_gradient(shared, plan, own, memory=memory).strategy == Direct()) == bool(rank)
    for _ in range(2):
        replica.zero_grad()
        averaged = [p.grad for p in differentiated(shared, plan, own, Auto(memory=memory))]
        assert_same(averaged, [grad / 2 for grad in alone], 1e-10)
"""


def differentiated(model, plan, x, gradient):
    sample(model, plan, x, gradient=gradient).square().sum().backward()
    return list(model.parameters())


@pytest.mark.slow
def test_two_ranks_that_choose_differently_average_to_the_whole_batch():
    two_ranks(RANK, at=[pathlib.Path(__file__).parent], seconds=200)


def test_refusals():
    model, plan, x = problem()
    with pytest.raises(ValueError, match="no strategy keeps.*nearest"):
        sample(model, plan, x, gradient=Auto(memory=1000))
    with pytest.raises(ValueError, match="deadline=1e-06|deadline=0.001 ms"):
        sample(model, plan, x, gradient=Auto(deadline=1e-6))
    with pytest.raises(ValueError, match="calls=3"):
        sample(model, plan, x, gradient=Auto(calls=3))
    assert plan_gradient(model, plan, x, calls=plan.nfe).strategy == Direct()
    wrong: list[dict[str, Any]] = [{"memory": 0}, {"deadline": -1.0}, {"calls": 0}]
    for bad in wrong:
        with pytest.raises(ValueError, match=next(iter(bad))):
            Auto(**bad)

    def inside(x, t):
        return checkpoint(model.network, x, t, use_reentrant=True)

    with pytest.raises(ValueError, match="use_reentrant"):
        plan_gradient(Denoiser(inside, PROCESS, DATA), plan, x)
    applied = replace(plan, instructions=(*plan.instructions, Apply(("x",), ("x",), torch.tanh)))
    with pytest.raises(ValueError, match="Apply"):
        plan_gradient(model, applied, x)
