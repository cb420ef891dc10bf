"""One sample that is not finite: named with its step or, with `keep_finite`, set aside without a trace in others."""

import pytest
import torch
from everything import Network
from problems import PROCESS
from strategies import EXACT, close, plan_for
from torch import nn

from pullback.adjoint import Auto, Direct, PerStep, sample, trajectory
from pullback.adjoint.transforms import finite
from pullback.guidance import Over, lbfgs, optimise
from pullback.guidance.latents.priors import NormPrior
from pullback.solvers import DATA, DDIM, DDPM, ClassifierFree, Denoiser, DPMSolverPP, UniformT, coefficients

GRID = UniformT(4, start=0.9, end=0.05)


class Fragile(nn.Module):
    """A network with weights that knows no answer where x0 is beyond 50; one sample's output is its own."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 3))

    def forward(self, x, t, cond=0.0):
        out = self.body(torch.cat([x, t[:, None]], 1)) * (1 + cond)
        return out / (x[:, :1].detach() < 50)  # division by zero, inf in the graph


def problem(bad):
    """x, controls and noise of four samples, of which `bad` are beyond what the network knows."""
    torch.manual_seed(2)
    x, controls, noise = torch.randn(4, 3), torch.randn(4, 4, 3), torch.randn(4, 4, 3)
    for k in bad:
        x[k, 0] = 100.0
    return x, controls, noise


def gradients(strategy, plan, bad, rows, **options):
    """The rows of the sample, and gradients of a loss over them at everything that enters."""
    x, controls, noise = problem(bad)
    torch.manual_seed(3)
    net, scale = Fragile(), torch.rand(3, requires_grad=True)
    wanted = [v.requires_grad_() for v in (x, controls, *([noise] if plan.slots else []))]
    entering = dict(noise=noise[:, rows], controls=controls[:, rows], cond=scale, gradient=strategy)
    out = sample(Denoiser(net, PROCESS, DATA), plan, x[rows], **entering, **options)
    good = [k for k, row in enumerate(rows) if row not in bad]
    # a loss over the whole batch, as a user has it: NaN times whatever, selected afterwards
    loss = out.square().sum(1)[good].sum()
    grads = torch.autograd.grad(
        loss, [*wanted, scale, *net.parameters()], allow_unused=True, materialize_grads=True
    )
    return out, [out[good], *grads]


@pytest.mark.filterwarnings("ignore:sample. not finite")
@pytest.mark.parametrize("strategy", EXACT, ids=str)
def test_batch_mates_are_what_they_are_without_it(strategy):
    """Values and gradients at every input, parameters among them; first and last of a batch, and two of them."""
    plans = [method.plan(PROCESS, GRID) for method in (DPMSolverPP(2), DDPM())]
    for plan in [plan_for(strategy)] if "Reversible" in str(strategy) else plans:
        for bad in ([0], [1, 3]):
            good = [k for k in range(4) if k not in bad]
            out, kept = gradients(strategy, plan, bad, [0, 1, 2, 3], keep_finite=True)
            assert out[bad].isnan().all()
            assert all(bool(value.isfinite().all()) for value in kept)
            close(kept, gradients(strategy, plan, bad, good)[1])


def test_it_is_an_error_by_default_that_names_samples_step_and_call():
    plan = DPMSolverPP(2).plan(PROCESS, GRID)
    with pytest.raises(
        FloatingPointError, match=r"network output at step 0 \(call 0, t=0.9\) for samples \[1, 3\] of 4"
    ):
        gradients(Auto(), plan, [1, 3], [0, 1, 2, 3])
    model = Denoiser(
        lambda x, t: x / (t[:, None] > 0.3) / torch.tensor([1.0, 1.0, 0.0])[:, None], PROCESS, DATA
    )
    with pytest.raises(
        FloatingPointError, match=r"step 0 .* for samples \[2\] of 3; at the end for samples \[0, 1, 2\]"
    ):
        sample(model, plan, torch.ones(3, 2))
    with pytest.raises(FloatingPointError, match="samples") as found:  # nobody is left
        sample(model, plan, torch.ones(3, 2), keep_finite=True)
    assert "keep_finite" not in str(found.value)  # what was done already is no advice


def test_a_sum_that_overflows_is_no_value_that_does():
    assert finite(torch.full((2, 3), 3e38)) and finite(torch.empty(0, 3))
    for wrong in ([torch.inf, 0.0], [torch.inf, -torch.inf], [torch.nan, 1.0], [3e38, 3e38, -torch.inf]):
        assert not finite(torch.tensor(wrong))


def test_the_warning_names_them():
    model = Denoiser(lambda x, t: x.log(), PROCESS, DATA)
    plan, x = DDIM().plan(PROCESS, UniformT(1, start=0.9, end=0.5)), torch.tensor([[2.0, 2.0], [2.0, -1.0]])
    with pytest.warns(RuntimeWarning, match=r"sample: not finite for samples \[1\] of 2"):
        out = sample(model, plan, x, keep_finite=True)
    assert out[0].isfinite().all() and out[1].isnan().all()


@pytest.mark.filterwarnings("ignore:sample. not finite")
def test_along_the_way_in_trees_under_guidance_and_with_coefficients():
    net, plan, x = Fragile(), DPMSolverPP(2).plan(PROCESS, GRID), problem([2])[0]
    good = [0, 1, 3]
    scale = torch.rand(4, requires_grad=True)

    def grads(rows, tree, **options):
        model = Denoiser(net, PROCESS, DATA)
        if tree:
            model = Denoiser(lambda v, t, c: {"x": net(v["x"], t, c), "y": v["y"]}, PROCESS, DATA)
        guided = ClassifierFree(model, scale[rows], null=0.0)
        own = None if tree else coefficients(plan, guided).requires_grad_()
        start = {"x": x[rows], "y": torch.ones(len(rows), 1)} if tree else x[rows]
        states = trajectory(guided, plan, start, [1, 4], cond=torch.tensor(0.5), coefficients=own, **options)
        leaves = [state["x"] if tree else state for state in states]
        kept = [k for k, row in enumerate(rows) if row in good]
        total = torch.stack([leaf[kept].square().sum() for leaf in leaves]).sum()
        wanted = [*net.parameters(), scale, *([] if own is None else [own])]
        return [*(leaf[kept] for leaf in leaves), *torch.autograd.grad(total, wanted)]

    for tree in (False, True):
        close(grads([0, 1, 2, 3], tree, keep_finite=True), grads(good, tree))


@pytest.mark.filterwarnings("ignore:sample. not finite")
@pytest.mark.parametrize("where", ["x", "noise", "controls", "cond", "scale", "overflow", "nothing"])
def test_whatever_the_cause(where):
    """NaN in what was given for one sample, or a finite scale that makes it overflow step by step; `nothing`: no
    sample is lost, and it is the run without the option. The plan's coefficients too are shared by the batch.
    """
    torch.manual_seed(0)
    plan, net = DDPM().plan(PROCESS, GRID), Network()
    given = {name: torch.randn(4, 3, 3) for name in ("noise", "controls", "scale")}
    given |= {name: torch.randn(1, 3, 3) for name in ("x", "cond")}
    if where in given:
        given[where][:, 1] = torch.nan
    if where == "overflow":
        given["cond"][:, 1] = 1e200
    rows = [0, 1, 2] if where == "nothing" else [0, 2]

    def grads(rows, **options):
        own = {name: value[:, rows] for name, value in given.items()}
        model = Denoiser(net, PROCESS, DATA)
        numbers = coefficients(plan, model).requires_grad_()
        out = sample(
            model,
            plan,
            own["x"][0],
            cond={"scale": PerStep(own["scale"]), "shifts": (own["cond"][0],)},
            noise=own["noise"],
            controls=own["controls"],
            coefficients=numbers,
            **options,
        )
        kept = out[~out.isnan().any(1)]
        wanted = [net.captured, numbers, *net.body.parameters()]
        return [kept, *torch.autograd.grad(kept.square().sum(), wanted)]

    close(grads([0, 1, 2], keep_finite=True), grads(rows))


def test_what_cannot_be_set_aside_is_said():
    """Finite conditioning for which the network has no answer at any state: its gradient would be 0 * NaN."""
    net = nn.Linear(2, 2)
    model, plan = Denoiser(lambda x, t, c: net(x) * c.sqrt(), PROCESS, DATA), DDIM().plan(PROCESS, GRID)
    with (
        pytest.warns(RuntimeWarning),
        pytest.raises(FloatingPointError, match=r"keep_finite: got conditioning .* for samples \[1\] of 2"),
    ):
        sample(model, plan, torch.ones(2, 2), cond=torch.tensor([[1.0], [-1.0]]), keep_finite=True)


@pytest.mark.filterwarnings("ignore:sample. not finite")
@pytest.mark.parametrize("optimiser", [None, lbfgs()], ids=["adam", "lbfgs"])
def test_optimise_goes_on_with_the_others(optimiser):
    """Samples, losses and the shared weights are those of a descent without the lost sample, and without the one
    whose loss is NaN though its sample is not.
    """
    plan, good = DPMSolverPP(2).plan(PROCESS, GRID), [0, 3]

    def descend(rows, shared, **options):
        torch.manual_seed(4)
        net, x = Fragile(), problem([2])[0]

        def loss(out):
            value = (out - 1).square().sum(1)
            return value if len(rows) == 2 else value * torch.tensor([1.0, -1.0, 1.0, 1.0]).sqrt()

        if optimiser is not None:
            options["optimiser"] = optimiser
        found = optimise(
            Denoiser(net, PROCESS, DATA), plan, loss, x[rows], steps=4, progress=False, gradient=Direct(),
            over=Over(parameters=shared), **options,
        )  # fmt: skip
        return found, [p.detach() for p in net.parameters()]

    for shared in (False, True) if optimiser is None else (False,):
        got, net = descend([0, 1, 2, 3], shared, keep_finite=True)
        want, alone = descend(good, shared)
        close([got.sample[good], got.x[good], got.losses[:, good], got.loss[good], *net],
              [want.sample, want.x, want.losses, want.loss, *alone], 1e-9)  # fmt: skip
        assert got.loss[[1, 2]].isnan().all() and got.sample[2].isnan().all() and got.stop == want.stop
        with pytest.raises(FloatingPointError, match="samples"):
            descend([0, 1, 2, 3], shared)


def test_a_sample_that_recovers_has_its_best():
    """x starts where the network has no answer; the prior pulls it back, and its losses count from then on."""
    model = Denoiser(lambda x, t: torch.where(x.abs() < 3, x, torch.nan), PROCESS, DATA)
    found = optimise(
        model, DDIM().plan(PROCESS, UniformT(2, start=0.5, end=0.1)), lambda out: out.square().sum(1),
        torch.tensor([[1.0], [4.0]]), steps=60, progress=False, keep_finite=True,
        prior=NormPrior(2.0),
    )  # fmt: skip
    assert found.losses[0].isnan().tolist() == [False, True]
    assert found.loss.isfinite().all() and found.sample.isfinite().all()
