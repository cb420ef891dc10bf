"""What a guide can ask of its context, and what is refused."""

import pytest
import torch
from guides import ENDS, MODEL, PLAN, PRIOR, PROCESS, SEEN, Spy, named

from pullback import guidance
from pullback.adjoint import PerStep
from pullback.guidance import DPS, MPGD, TMPD, Guide, Measurement, Raw, steer
from pullback.solvers import (
    DDIM,
    DDPM,
    FLOW,
    NOISE,
    Addressed,
    ClassifierFree,
    Denoiser,
    FlowEuler,
    FlowHeun,
    RectifiedFlow,
    UniformLambda,
    UniformT,
)

X = torch.randn(4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
NOISE_SOURCE = Addressed(11)


# what a context offers
# ---------------------------------------------------------------------------------------------------


def test_a_context_knows_the_steps_law():
    plan = DDPM().plan(PROCESS, UniformLambda(5, **ENDS))
    for k, seen in enumerate(_contexts(plan)):
        mean, std = seen.transition()
        a, s, a2, s2 = (
            float(v.flatten()[0]) for v in (seen.alpha, seen.sigma, seen.next_alpha, seen.next_sigma)
        )
        ratio = a / a2
        beta = s**2 - ratio**2 * s2**2
        want = (ratio * s2**2 * seen.x + a2 * beta * seen.data) / s**2
        assert torch.allclose(mean, want, atol=1e-12) and torch.allclose(
            std, torch.full((4, 1), (beta * s2**2 / s**2) ** 0.5)
        )
        x = torch.randn(4, 4)
        law = torch.distributions.Normal(want, std)
        assert torch.allclose(seen.log_transition(x), law.log_prob(x).sum(1), atol=1e-9), k
        # dx_s/dD by differences of the step's own mean
        seen._record.law.guided[seen._record.index] = seen.data + 1.0
        assert torch.allclose(seen.transition()[0] - mean, seen.gain.expand(4, 4), atol=1e-12)


def _contexts(plan, x=X, model=MODEL):
    seen = []
    steer(model, plan, x, Spy(seen.append), noise=NOISE_SOURCE)
    return seen


def test_a_deterministic_step_has_no_density():
    seen = _contexts(DDIM().plan(PROCESS, UniformLambda(2, **ENDS)))
    with pytest.raises(ValueError, match="without noise"):
        seen[0].log_transition(X)


def test_renoise_is_the_forward_process():
    seen = _contexts(PLAN)[0]
    s, t = 0.3, 0.7
    moved = seen.renoise(torch.zeros(4, 4), s, t)
    ratio = float(PROCESS.alpha(t) / PROCESS.alpha(s))
    assert torch.allclose(seen.renoise(X, s, t) - ratio * X, torch.zeros(4, 4), atol=6.0)
    assert torch.allclose(
        moved / (float(PROCESS.sigma(t)) ** 2 - (ratio * float(PROCESS.sigma(s))) ** 2) ** 0.5,
        Addressed(11, stream=2**63)(0, X),
        atol=1e-12,
    )
    with pytest.raises(ValueError, match="expected a noisier t"):
        seen.renoise(X, 0.7, 0.3)


def test_levels_and_costs_of_stacked_plans():
    """One grid per sample equals separate runs."""
    grids = torch.stack([torch.linspace(0.95, 0.03, 6), torch.linspace(0.9, 0.05, 6)], 1).double()
    guide = DPS(SEEN, Raw(0.05)) + TMPD(SEEN)
    whole = steer(MODEL, DDIM().plan(PROCESS, grids), X[:2], guide)
    for b in range(2):
        one = steer(MODEL, DDIM().plan(PROCESS, grids[:, b]), X[b : b + 1], guide)
        assert torch.allclose(whole.sample[b], one.sample[0], atol=1e-11)


def test_conditioning_and_classifier_free_guidance():
    cond = torch.tensor([0.3, -0.2, 0.1, 0.4])
    plain = steer(MODEL, PLAN, X, TMPD(SEEN), cond=cond, noise=NOISE_SOURCE)
    free = steer(
        ClassifierFree(MODEL, 1.0, torch.zeros(4)), PLAN, X, TMPD(SEEN), cond=cond, noise=NOISE_SOURCE
    )
    assert torch.allclose(plain.sample, free.sample, atol=1e-10) and free.nfe == plain.nfe
    steps = PerStep(cond.expand(8, 4))
    ahead = guidance.Lookahead(SEEN.nats, 4)
    both = [steer(MODEL, PLAN, X, ahead, cond=c, noise=NOISE_SOURCE).sample for c in (cond, steps)]
    assert torch.allclose(both[0], both[1], atol=1e-12) and not torch.allclose(plain.sample, both[0])


def test_flow_plans_from_infinite_noise():
    """At alpha = 0 the state says nothing and corrections are zero; the last call, at sigma = 0, is left alone."""
    process = RectifiedFlow()
    model = PRIOR.denoiser(process)
    velocity = Denoiser(lambda x, t: (x - model(x, t)) / t[:, None].clamp(min=1e-9), process, FLOW)
    for method in (FlowEuler(), FlowHeun()):
        plan = method.plan(process, UniformT(8))
        found = steer(velocity, plan, X, TMPD(SEEN))
        assert bool(found.sample.isfinite().all()) and float(SEEN(found.sample).mean()) < 1.0


@pytest.mark.parametrize(
    "call, words",
    [
        (
            lambda: steer(MODEL, PLAN, X[0], TMPD(SEEN), noise=NOISE_SOURCE),
            r"expected a floating point \(B, ...\)",
        ),
        (lambda: steer(MODEL, PLAN, X, TMPD(SEEN)), "noise: got None, expected a source with 8 slots"),
        (
            lambda: steer(MODEL, PLAN, X, TMPD(SEEN), cond=PerStep(torch.zeros(3, 4)), noise=NOISE_SOURCE),
            "PerStep with",
        ),
        (
            lambda: steer(MODEL, PLAN, torch.zeros(2, 7), TMPD(SEEN), noise=NOISE_SOURCE),
            "does not take samples of shape",
        ),
        (lambda: steer(MODEL, PLAN, X, DPS(lambda x: x), noise=NOISE_SOURCE), "one value per sample"),
        (
            lambda: steer(MODEL, DDIM().plan(PROCESS, UniformLambda(3, **ENDS)), X, guidance.LGD(SEEN)),
            "pass draws=Addressed",
        ),
        (
            lambda: steer(
                Denoiser(lambda x, t: x, RectifiedFlow(), NOISE),
                FlowEuler().plan(RectifiedFlow(), UniformT(3)),
                X,
                TMPD(SEEN),
            ),
            "does not determine",
        ),
        (
            lambda: steer(PRIOR.denoiser(RectifiedFlow()), PLAN, X, TMPD(SEEN), noise=NOISE_SOURCE),
            "process: got a plan for",
        ),
        (lambda: TMPD(SEEN).during(0.5, 0.5), "start < stop"),
        (lambda: steer(MODEL, PLAN, X, TMPD(SEEN, most=1), noise=NOISE_SOURCE), "one VJP for each"),
        (
            lambda: steer(MODEL, PLAN, X, TMPD(Measurement(SEEN.physics, SEEN.y, 0.0)), noise=NOISE_SOURCE),
            "expected s_y > 0",
        ),
        (lambda: guidance.FreeDoM(SEEN, travels=0), "travels >= 1"),
        (lambda: steer(MODEL, PLAN, X, guidance.DiffPIR(SEEN, 0.0), noise=NOISE_SOURCE), "lam=0.0"),
        (lambda: steer(MODEL, PLAN, X, guidance.PiGDM(SEEN, 0.0), noise=NOISE_SOURCE), "data_std=0.0"),
        (lambda: guidance.SNR(0.0), "noise_std > 0"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_a_vjp_without_a_graph_says_what_to_set():
    class Careless(Guide):
        def data(self, ctx, data):
            return data + ctx.vjp(data)

    with pytest.raises(ValueError, match="differentiates = True"):
        steer(MODEL, PLAN, X, Careless(), noise=NOISE_SOURCE)


def test_a_loss_that_is_not_finite_names_the_step():
    calls = [0]

    def loss(x):
        calls[0] += 1
        return x.square().sum(1) / (0.0 if calls[0] == 4 else 1.0)

    with pytest.raises(FloatingPointError, match="loss: not finite at step 3"):
        steer(MODEL, PLAN, X, MPGD(loss, Raw(0.01)), noise=NOISE_SOURCE)


@pytest.mark.parametrize(
    "guide", [DPS, MPGD, guidance.LGD, guidance.Greedy, guidance.REDdiff, guidance.Lookahead]
)
def test_a_loss_that_is_nan_anywhere_is_an_error_that_names_the_guide(guide):
    calls = [0]

    def loss(x):
        calls[0] += 1
        return x.square().sum(1) * (torch.nan if calls[0] == 5 else 1.0)

    with pytest.raises(
        FloatingPointError, match=rf"(loss|state): not finite at step \d .* under {guide.__name__}"
    ):
        steer(MODEL, PLAN, X, guide(loss), noise=NOISE_SOURCE)


@pytest.mark.parametrize("loss, words", [
    (lambda x: 3.0, "got float, expected a tensor"),
    (lambda x: x.square().mean(), r"got shape \(\), expected \(4,\): one value per sample"),
    (lambda x: x.detach().square().sum(1), "without a graph to x, expected differentiable ones"),
])  # fmt: skip
def test_a_loss_that_is_none_says_what_to_change(loss, words):
    with pytest.raises(ValueError, match=f"^loss: .*{words}"):
        steer(MODEL, PLAN, X, DPS(loss), noise=NOISE_SOURCE)


@pytest.mark.parametrize(
    "guide",
    [TMPD(SEEN), guidance.PiGDM(SEEN), DPS(SEEN), guidance.DAPS(SEEN), guidance.Lookahead(SEEN, 3)],
    ids=named,
)
def test_single_precision_stays_single_and_half_is_carried_as_single(guide):
    wide = steer(MODEL, PLAN, X, guide, noise=NOISE_SOURCE).sample
    narrow = steer(MODEL, PLAN, X.float(), guide, noise=NOISE_SOURCE)
    assert narrow.sample.dtype == narrow.losses.dtype == torch.float32
    assert torch.allclose(narrow.sample.double(), wide, atol=1e-2 * float(wide.abs().max()))
    assert steer(MODEL, PLAN, X.bfloat16(), guide, noise=NOISE_SOURCE).sample.dtype == torch.float32


def test_a_prediction_that_does_not_say_what_the_data_is_is_refused_before_any_call():
    calls = []

    def network(x, t):
        calls.append(t)
        return x

    model = Denoiser(network, RectifiedFlow(), NOISE)
    with pytest.raises(ValueError, match="does not determine DATA at t=1"):
        steer(model, FlowEuler().plan(RectifiedFlow(), UniformT(3)), X, TMPD(SEEN))
    assert not calls
