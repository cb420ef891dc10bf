"""Strengths of a guide: one number, one a sample, one a step; each sample has its own, whoever repeats samples."""

import pytest
import torch
from guides import ENDS, MATRIX, MODEL, PROCESS, Y

from pullback.adjoint import PerStep
from pullback.guidance import (
    DPS,
    ClassifierGuidance,
    Damped,
    DataGuidance,
    Lookahead,
    Matrix,
    Measurement,
    Raw,
    Residual,
    Through,
    smc,
    starting_particles,
    steer,
)
from pullback.solvers import DATA, DDPM, Addressed, Denoiser, UniformLambda

SEEN = Measurement(Matrix(MATRIX), Y, 2.0)
PLAN = DDPM().plan(PROCESS, UniformLambda(4, **ENDS))
EACH = torch.tensor([0.3, 1.0, 1.7], dtype=torch.float64)
STEPS = torch.linspace(0.2, 1.3, 12, dtype=torch.float64).reshape(4, 3)


def nats(x, t):
    return -(x - 1).square().sum(1) / 8


GUIDES = {
    "policy": lambda s: DataGuidance(SEEN.nats, Raw(s)),
    "policy in a policy": lambda s: DataGuidance(SEEN.nats, Damped(Raw(s))),
    "guide's own": lambda s: ClassifierGuidance(nats, s),
    "on a part of the steps": lambda s: ClassifierGuidance(nats, s).during(0.0, 0.5),
    "two at once": lambda s: ClassifierGuidance(nats, s) + DataGuidance(SEEN.nats, Raw(s)),
}
STRENGTHS = {
    "a sample": (EACH, lambda b: float(EACH[b])),
    "a sample and step": (PerStep(STEPS), lambda b: PerStep(STEPS[:, b])),
    "a step": (PerStep(STEPS[:, 0]), lambda b: PerStep(STEPS[:, 0])),
    "a step, one column": (PerStep(STEPS[:, :1]), lambda b: PerStep(STEPS[:, 0])),
    "a particle": (EACH.repeat_interleave(5), lambda b: float(EACH[b])),
    "a sample's particle": (EACH[:, None].expand(3, 5), lambda b: EACH[b].expand(1, 5)),
    "a step and sample's particle": (
        PerStep(STEPS[..., None].expand(4, 3, 5)),
        lambda b: PerStep(STEPS[:, b, None].expand(4, 5)),
    ),
    "one": (EACH[:1], lambda b: float(EACH[0])),
}


def cloud(guide, samples, **options):
    """Five particles for each of `samples`, by their addresses."""
    noise = Addressed(7, samples=samples)
    x = starting_particles(noise, torch.zeros(len(samples), 4, dtype=torch.float64), 5)
    reward = lambda x, context: -x.square().sum(1)  # noqa: E731
    return smc(MODEL, PLAN, x, reward, noise, proposal=guide, **options)


@pytest.mark.filterwarnings("ignore:smc. got an effective sample size")
@pytest.mark.parametrize(
    "name, kind",
    [("two at once", kind) for kind in STRENGTHS]
    + [pytest.param(name, "a sample and step", marks=pytest.mark.slow) for name in list(GUIDES)[:-1]],
)
def test_each_sample_of_a_cloud_has_its_own_strength(name, kind):
    """The particles of each sample are those it has alone with its strength."""
    make, (given, own) = GUIDES[name], STRENGTHS[kind]
    whole = cloud(make(given), range(3))
    for b in range(3):
        one = cloud(make(own(b)), [b])
        assert torch.allclose(whole.x[b], one.x[0], atol=1e-12)
        assert torch.allclose(whole.log_z[b], one.log_z[0], atol=1e-12)


@pytest.mark.filterwarnings("ignore:smc. got an effective sample size")
def test_the_evidences_gradient_at_the_strengths_is_each_samples():
    strengths = EACH.clone().requires_grad_()
    (whole,) = torch.autograd.grad(
        cloud(GUIDES["policy"](strengths), range(3), through=Through.FULL).log_z.sum(), strengths
    )
    for b in range(3):
        one = EACH[b].clone().requires_grad_()
        found = cloud(GUIDES["policy"](one), [b], through=Through.FULL)
        (grad,) = torch.autograd.grad(found.log_z.sum(), one)
        assert torch.allclose(grad, whole[b], rtol=1e-10)
    assert bool(whole.ne(0).all())


def counted():
    calls = []
    return calls, Denoiser(lambda x, t: calls.append(0) or 0.5 * x, PROCESS, DATA)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    "given, words",
    [
        (torch.ones(4), r"got shape \(4,\), expected .* of the {B} rows .*PerStep"),
        (torch.ones(2), r"got shape \(2,\), expected .* of the {B} rows .*PerStep"),
        (PerStep(torch.ones(4, 2)), r"got PerStep with values \(4, 2\), expected \(4,\) or \(4, {B}\)"),
    ],
    ids=["as many as steps", "too few", "per step"],
)
def test_strengths_that_fit_no_sample_are_refused_before_any_call(given, words, batch):
    calls, model = counted()
    x, noise = torch.zeros(batch, 4), Addressed(0)
    for guide, where in [
        (DPS(SEEN, Residual(given)), "Residual.scale"),
        (Lookahead(SEEN, 2, Damped(Raw(given))).during(0.5), "Raw.scale"),
        (DPS(SEEN) + ClassifierGuidance(nats, given), "ClassifierGuidance.scale"),
    ]:
        with pytest.raises(ValueError, match=f"{where}: " + words.replace("{B}", str(batch))):
            steer(model, PLAN, x, guide, noise=noise)
    steps = "N, " * isinstance(given, PerStep)
    many = rf"Raw.scale: got .*\({steps}{batch},?\) for the samples.*{batch}, 7\) for the part"
    with pytest.raises(ValueError, match=many):
        smc(model, PLAN, torch.zeros(batch, 7, 4), lambda x, context: x[:, 0], noise,
            proposal=DataGuidance(SEEN.nats, Raw(given)))  # fmt: skip
    assert not calls


def test_strengths_of_particles_the_wrong_way_round_are_refused():
    """(K, B) has as many numbers as (B, K), and would give each particle another's."""
    calls, model = counted()
    for batch, count in ((2, 3), (3, 2), (3, 3)):
        turned = torch.ones(count, batch) if batch != count else torch.ones(1, count)
        for given in (turned, PerStep(turned.expand(4, *turned.shape))):
            with pytest.raises(ValueError, match="Raw.scale: got .* for the particles of each"):
                smc(model, PLAN, torch.zeros(batch, count, 4), lambda x, context: x[:, 0], Addressed(0),
                    proposal=DataGuidance(SEEN.nats, Raw(given)))  # fmt: skip
    assert not calls
