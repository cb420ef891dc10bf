"""OnData: a function between prediction and step. Against loops written by hand, and against methods without it."""

import pickle
from dataclasses import dataclass, replace

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
    JacobianFree,
    Mechanism,
    Reversible,
    TorchDiffEq,
    Truncated,
    sample,
)
from pullback.adjoint.continuous import States
from pullback.guidance.guides import Guide, steer
from pullback.solvers import (
    BDIA,
    DATA,
    DDIM,
    DDPM,
    DEIS,
    NOISE,
    OBELM,
    VP,
    Addressed,
    Builder,
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
    OnDataOnly,
    Plan,
    PosteriorVariance,
    RectifiedFlow,
    ReversibleHeun,
    SASolver,
    Transitions,
    UniformT,
    UniPC,
    advance,
    coefficients,
    decode,
    encode,
    expand,
    inversion,
    moments,
    recover_noise,
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
    for asked in (lambda: moments(plan, 0.0, 1.0, 0.0, 1.0), lambda: expand(plan)):
        with pytest.raises(
            ValueError,
            match=r"got OnData.* with the function Clamp\(low=-50.0, high=50.0\) on its predictions",
        ):
            asked()
    for read in (lambda p: Transitions(p).stds, lambda p: bool(p.inverse()), lambda p: bool(inversion(p))):
        try:
            wanted = read(base)
        except ValueError:  # for base's own reason
            with pytest.raises(ValueError, match="expected .*; (use|take) "):
                read(plan)
        else:
            assert read(plan) == wanted


@pytest.mark.parametrize("method", every_method(), ids=str)
def test_every_prediction_is_followed_by_the_function(method):
    """What steps and history read was written by it, or is x and it as noise or velocity."""
    ops = OnData(method, Squash()).plan(PROCESS, GRID).instructions
    calls = [op for op in ops if isinstance(op, Evaluate)]
    assert calls and all(op.want == DATA and op.then == Squash() for op in calls)


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


@pytest.mark.parametrize("strategy", [AdjointDEIS(), Continuous(states=States.RESOLVED)], ids=str)
def test_strategies_that_cannot_say_so(strategy):
    plan, x = OnData(DDIM(), Clamp()).plan(PROCESS, GRID), torch.randn(3, 2, requires_grad=True)
    with pytest.raises(ValueError, match="the function Clamp"):
        sample(MIXTURE.denoiser(PROCESS), plan, x, gradient=strategy)


@pytest.mark.parametrize(
    "method", [BDIA(0.5), ReversibleHeun(), ReversibleHeun(noise_side=True), OBELM()], ids=str
)
def test_reversible_methods_stay_reversible(method):
    wrapped, model = OnData(method, Squash()), MIXTURE.denoiser(PROCESS)
    assert_same(everything(wrapped, Reversible()), everything(wrapped, Direct()), 1e-10)
    plan, x = wrapped.plan(PROCESS, GRID), torch.randn(3, 2)
    back = decode(model, plan, encode(model, plan, x), dtype=torch.float64)
    bare = run(model, method.plan(PROCESS, GRID), x)
    assert (back - x).abs().max() < 1e-9 and not torch.allclose(run(model, plan, x), bare, atol=1e-3)


def test_the_continuous_gradient_is_of_the_flow_with_the_function():
    """Against the exact discrete gradient of many steps, which without the function is another one."""
    x, model = torch.randn(4, 2), MIXTURE.denoiser(PROCESS)

    def gradient(method, n, strategy):
        at = x.clone().requires_grad_()
        out = sample(model, method.plan(PROCESS, PROCESS.time(warped(n))), at, gradient=strategy)
        return torch.autograd.grad(out.square().sum(), at)[0]

    method = OnData(DPMSolverPP(2), Squash(0.5))
    want, other = gradient(method, 80, Checkpoint()), gradient(DPMSolverPP(2), 80, Checkpoint())
    found = [gradient(method, n, Continuous(method=DPMSolverPP(2))) for n in (10, 40)]
    errors = [float((v - want).norm() / want.norm()) for v in found]
    assert errors[1] < errors[0] / 5 and errors[1] < 0.03 < 0.1 < float((other - want).norm() / want.norm())


def ddim_as_shipped(network, x, times, fn, noise, eta):
    """DDIM with clip_sample and without use_clipped_model_output: fn(x_0) beside the network's own eps."""
    alpha, sigma, lam = PROCESS.alpha(times), PROCESS.sigma(times), PROCESS.lam(times)
    for i in range(len(times) - 1):
        eps = network(x, times[i].expand(len(x)))
        data = fn((x - sigma[i] * eps) / alpha[i])
        spread = eta * sigma[i + 1] * (-torch.expm1(2 * (lam[i] - lam[i + 1]))).sqrt()
        x = alpha[i + 1] * data + (sigma[i + 1] ** 2 - spread**2).sqrt() * eps + spread * noise[i]
    return x


@pytest.mark.parametrize("fn", [Clamp(-0.5, 0.6), Squash()], ids=str)
@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_the_noise_prediction_may_be_kept(fn, eta):
    """The clipped x_0 and the raw eps of one call: the loop, its gradients, under every strategy."""
    network, x, noise = Net(), (2 * torch.randn(5, 3)).requires_grad_(), torch.randn(6, 5, 3)
    plan = OnDataOnly(DDIM(eta), fn).plan(PROCESS, GRID)
    assert plan.nfe == 6 and pickle.loads(pickle.dumps(plan)) == plan
    assert f"D0 <- {fn}(D0_raw <- DATA(x, t=" in str(plan)
    want = ddim_as_shipped(network, x, GRID, fn, noise, eta)
    inputs = [x, *network.parameters()]
    grads = torch.autograd.grad(want.square().sum(), inputs)
    for strategy in (
        Direct(),
        Checkpoint(),
        Checkpoint(mechanism=Mechanism.REGION),
        Checkpoint(recursive=True),
    ):
        got = sample(
            Denoiser(network, PROCESS, NOISE), plan, x, noise=noise if eta else None, gradient=strategy
        )
        assert torch.allclose(got, want, atol=1e-13)
        assert_same(torch.autograd.grad(got.square().sum(), inputs), grads)
    replaced = run(
        Denoiser(network, PROCESS, NOISE), OnData(DDIM(eta), fn).plan(PROCESS, GRID), x, noise=noise
    )
    assert (replaced - want).abs().max() > 1e-2


@pytest.mark.parametrize("method", [DPMSolverPP(2), FlowEuler(), DEIS(2), DDPM(), UniPC(2)], ids=str)
def test_the_noise_prediction_kept_by_any_method(method):
    wrapped = OnDataOnly(method, Squash())
    plain = everything(wrapped, Direct())
    for strategy in (Checkpoint(), Truncated(9)):
        assert_same(everything(wrapped, strategy), plain)
    assert_same(everything(wrapped, Checkpoint(), order=2), everything(wrapped, Direct(), order=2), 1e-10)
    model, x = MIXTURE.denoiser(PROCESS), torch.randn(3, 2)
    plan, base = OnDataOnly(method, Clamp(-50.0, 50.0)).plan(PROCESS, GRID), method.plan(PROCESS, GRID)
    noise = GivenNoise(torch.randn(6, 3, 2))
    assert torch.allclose(run(model, plan, x, noise=noise), run(model, base, x, noise=noise), atol=1e-11)
    grids = torch.stack([PROCESS.time(torch.linspace(-2.0 - 0.3 * b, 2.5 + 0.2 * b, 7)) for b in range(3)], 1)
    together = run(model, OnDataOnly(method, Squash()).plan(PROCESS, grids), x, noise=noise)
    for k in range(3):
        alone = wrapped.plan(PROCESS, grids[:, k])
        one = run(model, alone, x[k : k + 1], noise=GivenNoise(noise.values[:, k : k + 1]))
        assert torch.allclose(together[k : k + 1], one, atol=1e-12)


def test_two_results_of_one_call_come_back_with_one_replay():
    """A reversible plan by hand that reads both the function's result and the prediction."""
    b, times = Builder(PROCESS, GRID), GRID
    for i in range(b.steps):
        b.begin()
        if i == 0:
            b.combine("y", (1.0, "x"))
        for to, src in (("y", "x"), ("x", "y")):
            outs = (f"D{to}{i}", f"R{to}{i}")
            b.ops.append(Evaluate(outs, src, float(times[i]), DATA, Squash()))
            b.combine(to, (0.9, to), (0.3, outs[0]), (-0.1, outs[1]), (0.05, src))
    plan = Plan("leaping", PROCESS, tuple(b.t), tuple(b.ops), tuple(b.starts), 1, False)
    network = Net()
    calls = []
    network.register_forward_hook(lambda *_: calls.append(1))
    x = torch.randn(4, 3, requires_grad=True)

    def found(strategy):
        out = sample(Denoiser(network, PROCESS, DATA), plan, x, gradient=strategy)
        return [out, *torch.autograd.grad(out.square().sum(), [x, *network.parameters()])]

    want = found(Direct())
    calls.clear()
    assert_same(found(Reversible()), want, 1e-11)
    assert len(calls) == 2 * plan.nfe


def test_a_leaf_that_a_function_holds_gets_its_gradient():
    """Under every strategy, also where only later calls' functions hold it."""
    gain, network, x = torch.tensor(0.8, requires_grad=True), Net(), torch.randn(4, 3)
    plan = OnData(DPMSolverPP(2), lambda D: torch.tanh(gain * D) / gain).plan(PROCESS, GRID)
    late = replace(plan, instructions=tuple([
        replace(op, then=None) if isinstance(op, Evaluate) and op.t == plan.times[0] else op for op in plan.instructions
    ]))  # fmt: skip
    model = Denoiser(network, PROCESS, DATA)
    for each in (plan, late):

        def found(strategy, each=each):
            out = sample(model, each, x, gradient=strategy)
            return torch.autograd.grad(out.square().sum(), [gain, *network.parameters()])

        want = found(Direct())
        assert float(want[0].abs()) > 1e-3
        for mechanism in (Mechanism.AUTO, Mechanism.REGION):
            if each is plan or mechanism is Mechanism.REGION:
                assert_same(found(Checkpoint(mechanism=mechanism)), want)
    with pytest.raises(RuntimeError, match="reaches a leaf of shape .* the first call did not"):
        sample(model, late, x, gradient=Checkpoint())  # in the run, not only behind it


def test_held_predictions_pass_through_the_function():
    """JacobianFree of DDIM with NOISE held: what autograd gives with the network's output a constant."""
    plan, network, x = (
        OnData(DDIM(), Squash()).plan(PROCESS, GRID),
        Net(),
        torch.randn(4, 3, requires_grad=True),
    )
    model = Denoiser(network, PROCESS, NOISE)
    out = sample(model, plan, x, gradient=JacobianFree())
    held = Denoiser(lambda at, t: network(at, t).detach(), PROCESS, NOISE)
    want = sample(held, plan, x, gradient=Direct())
    assert_same(torch.autograd.grad(out.square().sum(), x), torch.autograd.grad(want.square().sum(), x))


def test_functions_in_turn():
    nested = OnData(OnData(DDIM(), Squash()), Clamp(-0.4, 0.4)).plan(PROCESS, GRID)
    one = OnData(DDIM(), lambda D: Squash()(Clamp(-0.4, 0.4)(D))).plan(PROCESS, GRID)
    x, model = torch.randn(3, 2), MIXTURE.denoiser(PROCESS)
    assert (
        torch.equal(run(model, nested, x), run(model, one, x))
        and pickle.loads(pickle.dumps(nested)) == nested
    )


def test_noise_is_recovered_and_coefficients_learned_through_the_function():
    model, plan = MIXTURE.denoiser(PROCESS), OnData(DDPM(), Squash()).plan(PROCESS, GRID)
    x0 = torch.randn(3, 2)
    start, noise = recover_noise(model, plan, x0, noise=Addressed(3))
    assert torch.allclose(run(model, plan, start, noise=noise), x0, atol=1e-11)
    values = coefficients(plan, model).requires_grad_()
    assert torch.allclose(sample(model, plan, start, noise=noise, coefficients=values), x0, atol=1e-11)
    chain = Transitions(plan)
    assert chain.stds == Transitions(DDPM().plan(PROCESS, GRID)).stds


def test_a_joint_state_is_seen_as_the_caller_has_it():
    def fn(D):
        return {"a": D["a"].clamp(-0.3, 0.3), "b": D["b"]}

    network, plan = (
        (lambda x, t: {"a": 0.5 * x["a"], "b": 0.2 * x["b"]}),
        OnData(DDIM(), fn).plan(PROCESS, GRID),
    )
    x = {"a": torch.randn(4, 2, requires_grad=True), "b": torch.randn(4, 3)}
    parts = [
        run(
            Denoiser(lambda v, t: 0.5 * v, PROCESS, DATA),
            OnData(DDIM(), Clamp(-0.3, 0.3)).plan(PROCESS, GRID),
            x["a"],
        ),
        run(Denoiser(lambda v, t: 0.2 * v, PROCESS, DATA), DDIM().plan(PROCESS, GRID), x["b"]),
    ]
    out = sample(Denoiser(network, PROCESS, DATA), plan, x)
    assert torch.allclose(out["a"], parts[0]) and torch.allclose(out["b"], parts[1])
    (found,), (want,) = (torch.autograd.grad(v.square().sum(), x["a"]) for v in (out["a"], parts[0]))
    assert torch.allclose(found, want)


def test_a_function_that_writes_in_place_is_named():
    plan = OnData(DDIM(), lambda D: D.clamp_(-1, 1)).plan(PROCESS, GRID)
    with pytest.raises(RuntimeError, match="writes into its argument in place"):
        run(MIXTURE.denoiser(PROCESS), plan, torch.randn(3, 2))


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
    assert len(plan.functions) == plan.nfe
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
    assert isinstance(plan.step(0)[1], Combine)


def test_another_library_s_solver_would_leave_it_out():
    plan, x = OnData(DDIM(), Clamp()).plan(PROCESS, GRID), torch.randn(3, 2, requires_grad=True)
    with pytest.raises(ValueError, match="TorchDiffEq.*the function Clamp"):
        sample(MIXTURE.denoiser(PROCESS), plan, x, gradient=TorchDiffEq())


@pytest.mark.parametrize("fn", [lambda D: D.mean(0, keepdim=True), lambda D: D.mean(1, keepdim=True)])
def test_a_function_that_changes_the_shape_is_refused(fn):
    plan = OnData(DDIM(), fn).plan(PROCESS, UniformT(3, end=0.1))
    with pytest.raises(ValueError, match=r"got shape .* returned .*expected the prediction's \(4, 2\)"):
        run(MIXTURE.denoiser(PROCESS), plan, torch.randn(4, 2))


@dataclass(frozen=True)
class Shifting(Guide):
    """D + 0.2."""

    def data(self, ctx, data):
        return data + 0.2


@pytest.mark.parametrize("method", [DPMSolverPP(2), FlowEuler(), DEIS(1)], ids=str)
def test_a_guide_corrects_what_the_function_is_given(method):
    model, x = MIXTURE.denoiser(PROCESS), torch.randn(4, 2)
    found = steer(model, OnData(method, Squash()).plan(PROCESS, GRID), x, Shifting()).sample
    want = run(model, OnData(method, lambda D: Squash()(D + 0.2)).plan(PROCESS, GRID), x)
    assert torch.allclose(found, want, atol=1e-12)
    with pytest.raises(ValueError, match="a network call of which it takes two results"):
        steer(model, OnDataOnly(method, Squash()).plan(PROCESS, GRID), x, Shifting())


def test_one_inside_another_is_refused():
    for inner in (OnDataOnly(DDIM(), Squash()), OnData(DDIM(), Squash())):
        with pytest.raises(ValueError, match="has a function on its data already"):
            OnDataOnly(inner, Squash()).plan(PROCESS, GRID)


@pytest.mark.parametrize("fn", [Clamp(-0.2, 0.2), DynamicThreshold(0.9)], ids=str)
def test_a_joint_state_is_treated_leaf_by_leaf(fn):
    x = {"a": torch.randn(3, 2), "b": torch.randn(3, 4)}
    model = Denoiser(lambda x, t: {name: 2 * leaf for name, leaf in x.items()}, PROCESS, DATA)
    plan = OnData(DDIM(), fn).plan(PROCESS, GRID)
    together = run(model, plan, x)
    for name, leaf in x.items():
        alone = run(Denoiser(lambda x, t: 2 * x, PROCESS, DATA), plan, leaf)
        assert torch.allclose(together[name], alone, atol=1e-12)


def test_variances_are_no_part_of_a_clipped_prediction_beside_a_raw_one():
    method = OnDataOnly(DDPM(PosteriorVariance.LEARNED), Clamp())
    with pytest.raises(ValueError, match="which asks for variances, expected SMALL or LARGE; use OnData"):
        method.plan(VP(), UniformT(4, start=0.9, end=0.1))
