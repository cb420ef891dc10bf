"""Callbacks and networks that write in place are named and harm nothing; empty batches, half precision, noise."""

import pytest
import torch
from problems import PROCESS
from strategies import EXACT, STRATEGIES, close, network, plan_for

from pullback.adjoint import Auto, Checkpoint, Direct, PerStep, Reversible, audit, sample, trajectory
from pullback.guidance import optimise
from pullback.solvers import (
    BDIA,
    DATA,
    DDIM,
    DDPM,
    Addressed,
    Denoiser,
    DPMSolverPP,
    OnData,
    UniformT,
    advance,
    encode,
    run,
)

GRID = UniformT(4, start=0.9, end=0.05)
PLAN, NOISY = DPMSolverPP(2).plan(PROCESS, GRID), DDPM().plan(PROCESS, GRID)
TANH = Denoiser(lambda x, t: torch.tanh(x), PROCESS, DATA)


def doubling(x, t):
    return x.mul_(2).tanh()


def rescaling(x, t):
    return x * t.mul_(1000)[:, None].cos()


@pytest.mark.parametrize("writes", [doubling, rescaling])
@pytest.mark.parametrize("strategy", [None, *STRATEGIES], ids=str)
def test_a_network_that_writes_into_its_input_is_named(writes, strategy):
    weight = torch.ones(1, 3, requires_grad=strategy is not None)
    model = Denoiser(lambda x, t: writes(x, t) * weight, PROCESS, DATA)
    words = r"network call 0 of step 0: got a network that writes into its input.*clone|in-place operation"
    with pytest.raises(RuntimeError, match=words) as caught:
        sample(model, plan_for(strategy), torch.randn(1, 3), gradient=strategy)
    said = [str(caught.value), *getattr(caught.value, "__notes__", [])]
    assert "network call 0 of step 0" in said[-1]


def test_outside_sample_too():
    for act in (
        lambda: run(Denoiser(doubling, PROCESS, DATA), PLAN, torch.ones(1, 3)),
        lambda: encode(Denoiser(rescaling, PROCESS, DATA), BDIA().plan(PROCESS, GRID), torch.ones(1, 3)),
    ):
        with pytest.raises(RuntimeError, match="writes into its input x or t in place"):
            act()
    with torch.inference_mode():  # where writes leave no trace, and all else is as ever
        assert run(TANH, PLAN, torch.ones(1, 3)).isfinite().all()


@pytest.mark.parametrize("strategy", [None, Auto(), Direct(), Checkpoint(), Reversible()], ids=str)
def test_a_callback_that_writes_is_told_and_the_run_and_the_callers_x_stand(strategy):
    x, plan = torch.randn(2, 3, requires_grad=True), plan_for(strategy)
    want = sample(TANH, plan, x, gradient=None)
    kept = x.detach().clone()

    def zero(k, t, state):
        state.zero_()

    with pytest.raises(
        RuntimeError, match="callback: got a write to the state of step 0, expected it read only"
    ):
        sample(TANH, plan, x, gradient=strategy, callback=zero)
    assert torch.equal(x, kept)

    def unseen(k, t, state):  # numpy's writes leave no version
        state.numpy()[:] = 0.0

    out = sample(TANH, plan, x, gradient=strategy, callback=unseen)
    assert torch.equal(out, want) and torch.equal(x, kept)
    seen = []
    sample(TANH, plan, x, gradient=strategy, callback=lambda k, t, state: seen.append(state))
    seen[0].zero_()  # afterwards it is the caller's own
    assert torch.equal(x, kept) and not any(state.requires_grad for state in seen)


@pytest.mark.parametrize("strategy", EXACT, ids=str)
def test_an_empty_batch_has_an_empty_sample_and_zero_gradients(strategy):
    net, x = network(), torch.randn(0, 3, requires_grad=True)
    model, plan = Denoiser(net, PROCESS, DATA), plan_for(strategy)
    out = sample(model, plan, x, gradient=strategy)
    assert out.shape == (0, 3)
    for grad in torch.autograd.grad(out.sum(), list(net.parameters())):
        assert not grad.any()
    first, last = trajectory(model, plan, x, [0, 4], gradient=strategy)
    assert first.shape == last.shape == (0, 3)
    assert sample(model, NOISY, x, noise=Addressed(0)).shape == (0, 3)
    both = sample(Denoiser(lambda v, t: v, PROCESS, DATA), plan, {"a": x, "b": torch.zeros(0)}, gradient=None)
    assert both["a"].shape == (0, 3) and both["b"].shape == (0,)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("strategy", EXACT, ids=str)
def test_half_precision_is_carried_as_float32(strategy, dtype):
    """Against the float32 run of the same numbers; the gradient comes back in x's own dtype."""
    net, plan = network().float(), plan_for(strategy)
    half = torch.randn(2, 3).to(dtype).requires_grad_()
    wide = half.detach().float().requires_grad_()
    model = Denoiser(net, PROCESS, DATA)
    left, right = (sample(model, plan, x, gradient=strategy) for x in (half, wide))
    assert left.dtype == torch.float32 and torch.equal(left, right)
    if strategy in EXACT and "last=3" not in str(strategy):
        close(
            [torch.autograd.grad(left.sum(), half)[0]], [torch.autograd.grad(right.sum(), wide)[0].to(dtype)]
        )


def test_run_and_advance_take_noise_and_conditioning_as_sample_does():
    noise, x = torch.randn(4, 2, 3), torch.randn(2, 3)
    assert torch.equal(run(TANH, NOISY, x, noise=noise), sample(TANH, NOISY, x, noise=noise))
    assert torch.equal(advance(TANH, NOISY, x, noise=noise)["x"], run(TANH, NOISY, x, noise=noise))
    model = Denoiser(lambda x, t, c: torch.tanh(x) * c, PROCESS, DATA)
    steps = {"": PerStep(torch.rand(4, 1))}
    keyed = Denoiser(lambda x, t, c: torch.tanh(x) * c[""], PROCESS, DATA)
    assert torch.equal(run(keyed, PLAN, x, steps), sample(keyed, PLAN, x, cond=steps))
    for act, words in (
        (lambda: run(TANH, NOISY, x), "noise: got None, expected a source with 4 slots"),
        (
            lambda: advance(TANH, NOISY, x, noise=noise[:2]),
            r"noise: got a tensor of shape \(2, 2, 3\), expected \(4",
        ),
        (
            lambda: run(TANH, NOISY, x, noise=0),
            r"noise: got int, expected a source such as Addressed\(seed\)",
        ),
        (lambda: run(model, PLAN, x, PerStep(torch.rand(3, 1))), "got PerStep with 3 values, expected 4"),
        (lambda: run(TANH, PLAN, [0.0]), r"x\[0\]: got float, expected a tensor"),
        (lambda: sample(TANH, PLAN, None), "x: got None, expected a tensor"),
    ):
        with pytest.raises((ValueError, TypeError), match=words):
            act()


def test_registers_where_only_a_state_will_do():
    registers, loss = encode(TANH, BDIA().plan(PROCESS, GRID), torch.ones(2, 4)), lambda out: out.sum(1)
    back = BDIA().plan(PROCESS, GRID).inverse()
    with pytest.raises(ValueError, match="optimise: got inverse of BDIA.*starts from the registers x, y"):
        optimise(TANH, back, loss, registers, progress=False)
    registers = {name: value.requires_grad_() for name, value in registers.items()}
    rows = audit(TANH, back, registers, loss, {"checkpoint": Checkpoint()}).rows
    assert rows[1].error < 1e-12


def test_a_run_under_no_grad_is_told_so():
    x = torch.ones(1, 3, requires_grad=True)
    with torch.no_grad(), pytest.raises(ValueError, match="got a call under torch.no_grad"):
        sample(Denoiser(network(), PROCESS, DATA), PLAN, x, gradient=Checkpoint())


@pytest.mark.parametrize("strategy", [None, Direct(), Checkpoint()], ids=str)
def test_a_network_that_uses_one_tensor_for_all_its_outputs(strategy):
    """Harmless where each is read at once; named where a plan of several steps still needs the one before."""
    out, x = torch.zeros(2, 3), torch.randn(2, 3, requires_grad=True)

    def reused(x, t):
        with torch.no_grad():
            return out.copy_(torch.tanh(x))

    def fresh(x, t):
        return torch.tanh(x.detach())

    single = DDIM().plan(PROCESS, GRID)
    got, want = (sample(Denoiser(f, PROCESS, DATA), single, x, gradient=strategy) for f in (reused, fresh))
    assert torch.equal(got, want)
    with pytest.raises(
        RuntimeError, match="network call 1 of step 1: got a network that writes into its output"
    ):
        sample(Denoiser(reused, PROCESS, DATA), PLAN, x, gradient=strategy)


def test_a_function_on_the_prediction_that_writes_in_place_is_named():
    plan = OnData(DDIM(), lambda data: data.clamp_(-0.5, 0.5)).plan(PROCESS, GRID)
    with pytest.raises(
        RuntimeError,
        match="network call 0 of step 0: got the function .* which writes into its argument in place",
    ):
        run(TANH, plan, torch.randn(2, 3))
