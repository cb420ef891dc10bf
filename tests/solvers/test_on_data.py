"""OnData: a function between prediction and step. Against loops written by hand, and against methods without it."""

import pickle
from dataclasses import dataclass

import pytest
import torch
from everything import assert_same, everything
from problems import MIXTURE, PROCESS, every_method, warped
from torch import nn

from pullback.adjoint import (
    AdjointDEIS,
    Checkpoint,
    Continuous,
    Direct,
    Reversible,
    TorchDiffEq,
    Truncated,
    sample,
)
from pullback.solvers import (
    BDIA,
    DATA,
    DDIM,
    DDPM,
    DEIS,
    NOISE,
    Apply,
    Clamp,
    Combine,
    Coupled,
    Denoiser,
    DPMSolverPP,
    DynamicThreshold,
    Evaluate,
    FlowEuler,
    GivenNoise,
    OnData,
    RectifiedFlow,
    SASolver,
    Transitions,
    UniformT,
    UniPC,
    advance,
    coefficients,
    expand,
    inversion,
    moments,
    run,
)

GRID = PROCESS.time(warped(6))


@dataclass(frozen=True)
class Squash:
    """A smooth function, so that every gradient can be compared."""

    gain: float = 0.7

    def __call__(self, data):
        return torch.tanh(self.gain * data) / self.gain


def hand_written(network, x, times, fn):
    """DPM-Solver++(2M), midpoint, noise prediction, thresholded as other libraries do: history holds fn(D)."""
    alpha, sigma, lam = PROCESS.alpha(times), PROCESS.sigma(times), PROCESS.lam(times)
    before = None
    for i in range(len(times) - 1):
        eps = network(x, times[i].expand(len(x)))
        data = fn((x - sigma[i] * eps) / alpha[i])
        h = lam[i + 1] - lam[i]
        slope = data
        if before is not None:
            slope = data + 0.5 * h / (lam[i] - lam[i - 1]) * (data - before)
        x = sigma[i + 1] / sigma[i] * x - alpha[i + 1] * torch.expm1(-h) * slope
        before = data
    return x


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3))

    def forward(self, x, t):
        return self.body(torch.cat([x, t[:, None]], 1)) + 0.3 * x


@pytest.mark.parametrize("strategy", [None, Direct(), Checkpoint(), Checkpoint(offload=True)], ids=str)
@pytest.mark.parametrize("fn", [Clamp(-0.5, 0.6), DynamicThreshold(0.8), Squash()], ids=str)
def test_state_and_gradients_are_those_of_a_loop_by_hand(fn, strategy):
    network, x = Net(), (2 * torch.randn(5, 3)).requires_grad_()
    plan = OnData(DPMSolverPP(2), fn).plan(PROCESS, GRID)
    got = sample(Denoiser(network, PROCESS, NOISE), plan, x, gradient=strategy)
    want, bare = hand_written(network, x, GRID, fn), hand_written(network, x, GRID, lambda data: data)
    assert torch.allclose(got, want, atol=1e-13) and (want - bare).abs().max() > 1e-2
    if strategy is not None:
        inputs = [x, *network.parameters()]
        assert_same(
            *(torch.autograd.grad(out.square().sum(), inputs) for out in (got, want)), tolerance=1e-12
        )


@pytest.mark.parametrize("method", every_method(), ids=str)
def test_a_function_that_does_nothing_changes_nothing(method):
    """In data, noise or velocity; printed, pickled, compared, split, and refused where nothing is known of fn."""
    wrapped, model = OnData(method, Clamp(-50.0, 50.0)), MIXTURE.denoiser(PROCESS)
    plan, base, x = wrapped.plan(PROCESS, GRID), method.plan(PROCESS, GRID), torch.randn(3, 2)
    noise = GivenNoise(torch.randn(max(plan.slots, 1), 3, 2))
    want = run(model, base, x, noise=noise)
    assert (run(model, plan, x, noise=noise) - want).abs().max() < 1e-11
    assert (plan.nfe, plan.slots, plan.order, plan.stochastic) == (
        base.nfe, base.slots, base.order, base.stochastic,
    )  # fmt: skip
    assert pickle.loads(pickle.dumps(plan)) == plan and plan != OnData(method, Clamp()).plan(PROCESS, GRID)
    assert str(plan).count("Clamp(low=-50.0, high=50.0)(") == plan.nfe
    head, tail = plan.split(4)
    assert (run(model, tail, advance(model, head, x, noise=noise), noise=noise) - want).abs().max() < 1e-11
    for asked in (
        plan.inverse,
        lambda: inversion(plan),
        lambda: Transitions(plan),
        lambda: moments(plan, 0.0, 1.0, 0.0, 1.0),
        lambda: expand(plan),
        lambda: coefficients(plan, model),
    ):
        with pytest.raises(
            ValueError, match=r"got (OnData.* with )?the Apply .* <- Clamp\(low=-50.0, high=50.0\)"
        ):
            asked()


@pytest.mark.parametrize("method", every_method(), ids=str)
def test_every_prediction_is_followed_by_the_function(method):
    """What steps and history read was written by it, or is x and it as noise or velocity."""
    ops = OnData(method, Squash()).plan(PROCESS, GRID).instructions
    for op, after in zip(ops, ops[1:], strict=False):
        if isinstance(op, Evaluate):
            assert op.want == DATA and isinstance(after, Apply) and after.outs == after.srcs == op.outs


@pytest.mark.parametrize("fn", [Clamp(-0.4, 0.4), Squash(2.0)], ids=str)
def test_methods_that_are_one_stay_one(fn):
    """DDIM in data, in noise and in velocity, from alpha = 0 to sigma = 0 where the network allows."""
    process, x = RectifiedFlow(), torch.randn(4, 2)
    model = MIXTURE.denoiser(process)
    for grid, others in (
        (UniformT(7, start=0.9, end=0.1), (DEIS(1), FlowEuler(), DPMSolverPP(1))),
        (UniformT(7), (FlowEuler(), DPMSolverPP(1))),
    ):
        want = run(model, OnData(DDIM(), fn).plan(process, grid), x)
        for other in others:
            assert torch.allclose(run(model, OnData(other, fn).plan(process, grid), x), want, atol=1e-12)
        assert not torch.allclose(want, run(model, DDIM().plan(process, grid), x), atol=1e-3)
    assert want.abs().max() <= 0.5 + 1e-12  # a step to sigma = 0 ends at fn(D)


@pytest.mark.parametrize(
    "method", [DPMSolverPP(3), UniPC(2), SASolver(2, 3), DDPM(), DEIS(2), Coupled(DDIM())], ids=str
)
def test_strategies_are_exact(method):
    """At x, conditioning, noise, controls, parameters and a captured tensor; twice differentiated too."""
    wrapped, plain = OnData(method, Squash()), everything(OnData(method, Squash()), Direct())
    for strategy in (Checkpoint(), Checkpoint(offload=True), Truncated(9)):
        assert_same(everything(wrapped, strategy), plain)
    assert not torch.allclose(plain[0], everything(method, Direct())[0], atol=1e-3)
    assert_same(everything(wrapped, Checkpoint(), order=2), everything(wrapped, Direct(), order=2), 1e-10)


@pytest.mark.parametrize(
    "strategy", [Reversible(), Continuous(), AdjointDEIS()], ids=lambda s: type(s).__name__
)
def test_strategies_that_cannot_say_so(strategy):
    plan, x = OnData(BDIA(), Clamp()).plan(PROCESS, GRID), torch.randn(3, 2, requires_grad=True)
    with pytest.raises(ValueError, match="Apply"):
        sample(MIXTURE.denoiser(PROCESS), plan, x, gradient=strategy)


def test_per_sample_grids():
    grids = torch.stack([PROCESS.time(torch.linspace(-2.0 - 0.3 * b, 2.5 + 0.2 * b, 7)) for b in range(3)], 1)
    model, x = MIXTURE.denoiser(PROCESS), torch.randn(3, 2)
    for base in (DPMSolverPP(2), DEIS(2)):
        method = OnData(base, Clamp(-0.5, 0.5))
        together = run(model, method.plan(PROCESS, grids), x)
        alone = [run(model, method.plan(PROCESS, grids[:, b]), x[b : b + 1]) for b in range(3)]
        assert torch.allclose(together, torch.cat(alone), atol=1e-12)


def test_a_coupling_of_a_clamped_base_clamps_both_states():
    plan = Coupled(OnData(DDIM(), Clamp(-0.3, 0.3))).plan(PROCESS, GRID)
    assert sum(isinstance(op, Apply) for op in plan.instructions) == plan.nfe
    other = OnData(Coupled(DDIM()), Clamp(-0.3, 0.3)).plan(PROCESS, GRID)
    x, model = torch.randn(3, 2), MIXTURE.denoiser(PROCESS)
    assert torch.equal(run(model, plan, x), run(model, other, x))


def test_the_threshold_is_each_sample_s_own():
    data = torch.tensor([[0.1, -0.5, 0.2, 0.9], [4.0, -2.0, 1.0, 0.0]])
    assert torch.allclose(DynamicThreshold(1.0)(data), torch.stack([data[0], data[1] / 4]))
    assert torch.allclose(DynamicThreshold(1.0, most=2.0)(data)[1], data[1].clamp(-2, 2) / 2)
    assert torch.equal(DynamicThreshold(0.7)(data)[1], DynamicThreshold(0.7)(data[1:])[0])
    for wrong in (
        lambda: Clamp(1.0, -1.0),
        lambda: DynamicThreshold(0.0),
        lambda: DynamicThreshold(most=0.5),
    ):
        with pytest.raises(ValueError, match="expected"):
            wrong()


def test_where_the_network_says_nothing_of_data_it_is_an_error():
    """A noise prediction at alpha = 0: there is no D to clamp, and the run says so before the first call."""
    plan = OnData(FlowEuler(), Clamp()).plan(RectifiedFlow(), UniformT(4))
    model = Denoiser(lambda x, t: x[99], RectifiedFlow(), NOISE)
    with pytest.raises(ValueError, match="NOISE prediction does not determine DATA"):
        run(model, plan, torch.randn(2, 2))
    assert isinstance(plan.step(0)[2], Combine)


def test_another_library_s_solver_would_leave_it_out():
    plan, x = OnData(DDIM(), Clamp()).plan(PROCESS, GRID), torch.randn(3, 2, requires_grad=True)
    with pytest.raises(ValueError, match="TorchDiffEq.*the Apply"):
        sample(MIXTURE.denoiser(PROCESS), plan, x, gradient=TorchDiffEq())


@pytest.mark.parametrize("fn", [lambda D: D.mean(0, keepdim=True), lambda D: D.mean(1, keepdim=True)])
def test_a_function_that_changes_the_shape_is_refused(fn):
    plan = OnData(DDIM(), fn).plan(PROCESS, UniformT(3, end=0.1))
    with pytest.raises(ValueError, match=r"OnData: got shape .*expected the data's \(4, 2\)"):
        run(MIXTURE.denoiser(PROCESS), plan, torch.randn(4, 2))
