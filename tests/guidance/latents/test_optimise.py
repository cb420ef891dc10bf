"""`optimise` reaches known optima, keeps the best, and survives interrupts and NaN."""

import pytest
import torch
from problems import MIXTURE, PROCESS
from torch import nn

from pullback.adjoint import PerStep
from pullback.guidance import ChiPrior, NormPrior, Over, Stop, adam, lbfgs, optimise
from pullback.guidance.latents.optimisation import sgd
from pullback.solvers import DATA, DDIM, Addressed, Denoiser, DPMSolverPP, UniformLambda

ENDS = {"start": 0.9, "end": 0.05}
PLAN = DPMSolverPP(2).plan(PROCESS, UniformLambda(5, **ENDS))
MODEL = MIXTURE.denoiser(PROCESS)
TARGET = torch.tensor([0.9, 0.2], dtype=torch.float64)


def distance(x):
    return (x - TARGET).square().sum(1)


@pytest.mark.parametrize(
    "over",
    [Over(), Over(x=False, noise=True), Over(x=False, cond=True), Over(x=False, controls=True)],
    ids=str,
)
def test_every_variable_lowers_the_loss(over):
    plan = DDIM(0.7).plan(PROCESS, UniformLambda(5, **ENDS)) if over.noise else PLAN
    result = optimise(
        MODEL,
        plan,
        distance,
        torch.randn(3, 2),
        cond=PerStep(torch.zeros(5, 2)),
        noise=Addressed(1),
        over=over,
        steps=25,
        optimiser=adam(0.15),
        progress=False,
    )
    assert float(result.loss.sum()) < 0.3 * float(result.losses[0].sum())
    assert torch.allclose(result.loss, distance(result.sample), atol=1e-10)
    assert result.nfe == plan.nfe * 51 and result.vjps == plan.nfe * 25 and result.seed == 1
    assert not any(t.requires_grad for t in (result.sample, result.x, result.loss))


def test_lbfgs_finds_the_exact_minimum():
    result = optimise(
        MODEL,
        PLAN,
        distance,
        torch.zeros(1, 2),
        steps=6,
        progress=False,
        optimiser=lambda variables: torch.optim.LBFGS(variables, lr=1.0, line_search_fn="strong_wolfe"),
    )
    assert float(result.loss) < 1e-12


def test_parameters_move_and_stay_at_their_best():
    layer = nn.Linear(2, 2)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x, t):
            return self.layer(x)

    before = layer.weight.detach().clone()
    model = Denoiser(Network(), PROCESS, DATA)
    result = optimise(
        model,
        PLAN,
        distance,
        torch.randn(4, 2),
        over=Over(x=False, parameters=True),
        steps=15,
        progress=False,
    )
    assert not torch.equal(before, layer.weight) and float(result.loss.sum()) < float(result.losses[0].sum())
    assert torch.allclose(result.loss, distance(result.sample), atol=1e-10)


def test_batch_mates_do_not_matter():
    x = torch.randn(4, 2)
    whole = optimise(MODEL, PLAN, distance, x, steps=8, progress=False)
    for b in range(4):
        one = optimise(MODEL, PLAN, distance, x[b : b + 1], steps=8, progress=False)
        assert torch.allclose(whole.x[b], one.x[0], atol=1e-10) and torch.allclose(
            whole.sample[b], one.sample[0], atol=1e-10
        )


@pytest.mark.parametrize("trouble, stop", [(KeyboardInterrupt(), Stop.INTERRUPT), (None, Stop.NAN)])
def test_the_best_so_far_is_kept(trouble, stop):
    calls = []

    def loss(x):
        calls.append(1)
        if len(calls) == 5:
            if trouble:
                raise trouble
            return distance(x) * float("nan")
        return distance(x)

    x = torch.randn(2, 2)
    if trouble:
        result = optimise(MODEL, PLAN, loss, x, steps=20, progress=False)
    else:
        with pytest.warns(UserWarning, match="step 4"):
            result = optimise(MODEL, PLAN, loss, x, steps=20, progress=False)
    assert (
        result.stop is stop
        and len(result.losses) == 4
        and torch.equal(result.loss, result.losses.min(0).values)
    )
    assert torch.allclose(distance(result.sample), result.loss, atol=1e-10)


def test_patience_stops_early():
    result = optimise(
        MODEL, PLAN, lambda x: x.sum(1) * 0 + 1.0, torch.randn(2, 2), steps=50, patience=3, progress=False
    )
    assert result.stop is Stop.PATIENCE and len(result.losses) == 5


def test_priors_have_their_minimum_where_they_say():
    x = torch.randn(3, 50, requires_grad=True)
    assert torch.allclose(NormPrior()(x), x.square().sum(1) / 2)
    shell = (x / x.norm(dim=1, keepdim=True) * 49**0.5).detach().requires_grad_()
    value = ChiPrior()(shell)
    assert torch.allclose(value, torch.zeros(3), atol=1e-12)
    assert torch.allclose(torch.autograd.grad(value.sum(), shell)[0], torch.zeros(3, 50), atol=1e-12)


@pytest.mark.parametrize(
    "call, words",
    [
        (
            lambda: optimise(MODEL, PLAN, lambda x: x, torch.zeros(1, 2), progress=False),
            "one value per sample",
        ),
        (
            lambda: optimise(MODEL, PLAN, distance, torch.zeros(1, 2), over=Over(x=False), progress=False),
            "at least one variable",
        ),
        (
            lambda: optimise(MODEL, PLAN, distance, torch.zeros(1, 2), over=Over(noise=True), progress=False),
            "stochastic",
        ),
        (
            lambda: optimise(
                MODEL, PLAN, distance, torch.zeros(1, 2), steps=0, optimiser=adam(), progress=False
            ),
            "at least 1",
        ),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_a_first_loss_that_is_not_finite_raises():
    with pytest.raises(FloatingPointError, match="step 0"):
        optimise(MODEL, PLAN, lambda x: distance(x) / 0, torch.zeros(1, 2), progress=False)


def test_patience_is_by_sample():
    """Each has the result that it has alone, though the run goes on for the other."""
    x = torch.tensor([[0.3, -0.2], [1.5, -1.0]])

    def loss(z):  # the first falls at once, then rises, and would fall again after its patience is spent
        return torch.where(z[:, 0] > 1.0, distance(z), 1 + torch.cos(6 * z[:, 0]))

    def run(b):
        return optimise(
            MODEL, PLAN, loss, x[b], steps=60, patience=2, optimiser=sgd(0.3, momentum=0.9), progress=False
        )

    both, alone = run(slice(None)), [run(slice(b, b + 1)) for b in range(2)]
    assert [len(one.losses) for one in alone] != [len(both.losses)] * 2
    for b in range(2):
        assert torch.allclose(both.x[b], alone[b].x[0], atol=1e-12) and torch.allclose(
            both.loss[b], alone[b].loss[0]
        )


def rooted(z):
    """A finite loss whose slope is NaN for the second sample: 0 times infinity."""
    return z.square().sum(1) + torch.sqrt(z.sum(1) * (torch.arange(len(z)) != 1))


@pytest.mark.parametrize("optimiser", [adam(), lbfgs(), sgd(0.1)], ids=["adam", "lbfgs", "sgd"])
def test_a_gradient_that_is_not_finite_is_named_at_once(optimiser):
    """Not a step later, where the network would be blamed, and no line search ends on it without a word."""
    x = torch.rand(3, 2) + 1

    def loss(z):
        return rooted(z.square())

    with pytest.raises(
        FloatingPointError, match=r"loss: got a gradient .* step 0 for samples \[1\] of 3.*sqrt"
    ):
        optimise(MODEL, PLAN, loss, x, optimiser=optimiser, steps=4, progress=False)


def test_a_gradient_that_is_not_finite_later_keeps_the_best():
    calls = []

    def loss(z):
        calls.append(1)
        return distance(z) if len(calls) < 3 else distance(z) + torch.sqrt(z.sum(1) * 0)

    with pytest.warns(UserWarning, match="step 2, the best so far is kept: loss: got a gradient"):
        result = optimise(MODEL, PLAN, loss, torch.randn(2, 2), steps=6, progress=False)
    assert result.stop is Stop.NAN and len(result.losses) == 2 and bool(result.x.isfinite().all())


def test_batch_mates_of_a_gradient_that_is_not_finite_go_on():
    """As they do alone; the other stays where it is."""
    x = torch.rand(3, 2) + 1

    def loss(z):
        return rooted(z.square())

    options = {"steps": 4, "progress": False, "keep_finite": True}
    found = optimise(MODEL, PLAN, loss, x, **options)  # type: ignore[arg-type]
    alone = optimise(MODEL, PLAN, loss, x[:1], **options)  # type: ignore[arg-type]
    assert torch.allclose(found.x[0], alone.x[0]) and torch.equal(found.x[1], x[1])
    assert found.loss.isnan().tolist() == [False, True, False]


def test_a_networks_gradient_that_is_not_finite_is_not_laid_to_the_loss():
    """The second sample's slope is NaN inside the network."""

    def network(x, t):
        return -x + torch.sqrt(x[:, :1].square() * (torch.arange(len(x)) != 1)[:, None])

    with pytest.raises(
        FloatingPointError, match=r"gradient: not finite at step 0 for samples \[1\] of 3.*network"
    ):
        optimise(Denoiser(network, PROCESS, DATA), PLAN, distance, torch.rand(3, 2) + 1, progress=False)


def test_under_no_grad_it_says_so():
    with (
        torch.no_grad(),
        pytest.raises(ValueError, match="optimise: got a call under torch.no_grad.*outside of it$"),
    ):
        optimise(MODEL, PLAN, distance, torch.zeros(1, 2), progress=False)
