"""Learned plans: what the parts may and may not change, the descent, and the plan that comes out."""

import math
import pickle
from typing import cast

import pytest
import torch

from pullback.adjoint import sample
from pullback.guidance.latents import Stop
from pullback.guidance.learning import (
    Kept,
    LearnedCoefficients,
    LearnedLabels,
    LearnedScale,
    LearnedTimes,
    learn_solver,
)
from pullback.guidance.learning.gauss_newton import STEP, GaussNewton, teacher_distances
from pullback.guidance.learning.part import Draft
from pullback.guidance.learning.student import Draws, Student
from pullback.solvers import (
    DATA,
    DDIM,
    DDPM,
    DEIS,
    FLOW,
    VP,
    ClassifierFree,
    Combine,
    Denoiser,
    DPMSolverPP,
    EDMHeun,
    FlowAdams,
    GivenTimes,
    Guided,
    Mixture,
    RectifiedFlow,
    UniformLambda,
    UniformT,
    UniPC,
    V,
    convert,
    expand,
)
from pullback.solvers.own_prediction import in_own_prediction
from pullback.solvers.per_step import PerStep

TWO = DPMSolverPP(2, cap=math.inf)
MIXTURE = Mixture.isotropic(
    torch.tensor([0.3, 0.45, 0.25], dtype=torch.float64),
    torch.tensor([[1.0, 0.3], [-0.8, 0.9], [0.2, -1.1]], dtype=torch.float64),
    torch.tensor([0.35, 0.45, 0.3], dtype=torch.float64),
)
EXACT = MIXTURE.denoiser(VP())


def told_v(x, t):
    """The mixture as a V network, so that every conversion is at work."""
    return convert(EXACT(x, t), x, EXACT.prediction, V, VP(), t)


MODEL = Denoiser(told_v, VP(), V)
PLANS = [
    method.plan(VP(), UniformLambda(5, 1.0, 0.02))
    for method in (TWO, DEIS(3), UniPC(2, cap=math.inf), EDMHeun(), DDIM())
]
FLOW_PLAN = FlowAdams(2).plan(RectifiedFlow(), UniformT(5))


def grid(n):
    return UniformLambda(n, 1.0, 0.02)


def noise(count, seed=0):
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))


def learned(x=None, **options):
    options = {
        "learn": [LearnedTimes(TWO), LearnedCoefficients(), LearnedLabels()],
        "steps": 4,
        "progress": False,
    } | options
    plan, teacher = TWO.plan(VP(), grid(4)), DEIS(3).plan(VP(), grid(40))
    return learn_solver(MODEL, plan, teacher, noise(24) if x is None else x, **options)


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.name)
def test_in_its_own_prediction_a_plan_is_the_same_sampler(plan):
    own = in_own_prediction(plan, MODEL)
    assert {op.want for op in own.calls} == {V}
    assert (sample(MODEL, own, noise(3)) - sample(MODEL, plan, noise(3))).abs().max() < 1e-12
    assert [len(own.starts), own.nfe] == [len(plan.starts), plan.nfe]


@pytest.mark.parametrize(
    "part", [LearnedCoefficients(), LearnedCoefficients(kept=Kept.CONSTANT), LearnedLabels()], ids=str
)
@pytest.mark.parametrize("plan", [*PLANS, FLOW_PLAN], ids=lambda plan: plan.name)
def test_nought_is_the_plan_that_was_given(plan, part):
    model = Denoiser(told_v, plan.process, V)
    nought = torch.zeros(part.size(Draft(plan), model))
    found = part.applied(Draft(plan), nought, model).plan
    assert (expand(found) - expand(plan)).abs().max() < 1e-12


def test_times_at_nought_and_far_from_it():
    for plan, method in ((PLANS[0], TWO), (FLOW_PLAN, FlowAdams(2))):
        part, draft = LearnedTimes(method), Draft(plan)
        assert part.size(draft, MODEL) == 4
        same = torch.tensor(part.applied(draft, torch.zeros(4), MODEL).plan.times)
        assert (same - torch.tensor(plan.times)).abs().max() < 1e-12
        for seed in range(20):
            theta = 4 * torch.randn(4, generator=torch.Generator().manual_seed(seed))
            times = torch.tensor(part.applied(draft, theta, MODEL).plan.times)
            assert bool((times.diff() < 0).all())
            assert (times[0], times[-1]) == (plan.times[0], plan.times[-1])


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("method", [DDIM(), DPMSolverPP(2)], ids=str)
def test_every_factor_of_a_plan_to_sigma_0_moves_it(method, steps):
    draft = Draft(method.plan(VP(), UniformT(steps)))
    part = LearnedCoefficients()
    count = part.size(draft, MODEL)
    made = [
        part.applied(draft, row, MODEL).plan
        for row in (torch.zeros(count), *(0.1 * torch.eye(count)).unbind())
    ]
    assert count and all(plan != made[0] for plan in made[1:])


@pytest.mark.parametrize("plan", [*PLANS, FLOW_PLAN], ids=lambda plan: plan.name)
def test_what_is_kept_is_exact_for_constant_predictions(plan):
    """A network that knows the one point that the data is: x_t = alpha D + sigma E, in every register."""
    point, p = torch.tensor([0.7, -0.4]), plan.process
    model = Denoiser(lambda x, t: point.expand_as(x), p, DATA)
    if float(p.alpha(plan.times[0])) == 0:
        model = Denoiser(lambda x, t: (x - point) / t[:, None], p, FLOW)
    start, end = (torch.tensor(plan.times[i], dtype=torch.float64) for i in (0, -1))
    e = noise(3)
    exact = p.alpha(end) * point + p.sigma(end) * e
    errors = {}
    for kept in Kept:
        part = LearnedCoefficients(kept=kept)
        theta = 0.3 * torch.randn(part.size(Draft(plan), model), generator=torch.Generator().manual_seed(1))
        found = part.applied(Draft(plan), theta, model).plan
        out = sample(model, found, p.alpha(start) * point + p.sigma(start) * e, gradient=None)
        errors[kept] = float((out - exact).abs().max())
    assert errors[Kept.CONSTANT] < 1e-9
    assert errors[Kept.NOTHING] > 1e-3


def test_labels_change_what_the_network_is_told_and_nothing_else():
    theta = torch.tensor([0.5, -0.2, 0.1, 9.0, -99.0])
    plan = LearnedLabels().applied(Draft(PLANS[0]), theta, MODEL).plan
    before = in_own_prediction(PLANS[0], MODEL)
    factors = [[op.terms for op in p.instructions if isinstance(op, Combine)] for p in (plan, before)]
    assert factors[0] == factors[1]
    told, own = ([cast(float, op.t) for op in p.calls] for p in (plan, before))
    assert told[0] == own[0] == 1.0  # nothing lies above the first time
    assert math.isclose(told[1], own[1] - 0.2 * (own[0] - own[2]) / 2)
    assert told[3] == 1.0 and 0.02 < told[4] < own[4]


def test_a_difference_quotient_runs_from_where_its_number_enters():
    x, plan = noise(6), PLANS[0]
    student = Student(MODEL, plan, [LearnedCoefficients(), LearnedLabels()])
    theta = 0.1 * torch.randn(sum(student.sizes), generator=torch.Generator().manual_seed(2))
    batch = Draws(x, None, torch.zeros_like(x))
    descent = GaussNewton(student, batch, lambda x: x, theta)
    base = sample(MODEL, student.draft(theta).plan, x, gradient=None)
    assert torch.equal(descent.run.sample, base)
    for k in range(len(theta)):
        before = descent.calls
        moved = theta.clone()
        moved[k] += STEP
        column = descent._column(k, descent.run.sample)
        other = sample(MODEL, student.draft(moved).plan, x, gradient=None)
        if torch.equal(other, base):  # the first label, which cannot rise
            moved[k] -= 2 * STEP
            other = sample(MODEL, student.draft(moved).plan, x, gradient=None)
            assert torch.equal(column, (other - base) / -STEP)
            continue
        assert torch.equal(column, (other - base) / STEP)
        assert descent.calls - before <= plan.nfe
    last = student.sizes[0] - 1  # a factor of the last step
    before = descent.calls
    descent._column(last, descent.run.sample)
    assert descent.calls == before + 1


def test_the_slope_is_that_of_the_sum_of_distances():
    """The step's right-hand side against a plain difference of the sum of norms."""
    x = noise(5)
    student = Student(MODEL, PLANS[0], [LearnedCoefficients()])
    theta, target = torch.zeros(sum(student.sizes)), noise(5, 3)
    descent = GaussNewton(student, Draws(x, None, target), lambda x: x, theta)
    residual = descent.run.sample - target
    for k in (0, 3, len(theta) - 1):
        slope = float((descent._column(k, residual) * residual).sum(1).div(residual.norm(dim=1)).sum())
        moved = theta.clone()
        moved[k] += 1e-6
        other = sample(MODEL, student.draft(moved).plan, x, gradient=None)
        plain = float(((other - target).norm(dim=1) - residual.norm(dim=1)).sum()) / 1e-6
        assert abs(slope - plain) < 2e-2 * max(1.0, abs(plain))


def test_what_is_learned_is_a_plan_and_does_what_it_says():
    x = noise(24)
    found = learned(x)
    teacher = DEIS(3).plan(VP(), grid(40))
    out, target = (sample(MODEL, plan, x[18:], gradient=None) for plan in (found.plan, teacher))
    assert torch.equal(teacher_distances(out, target, lambda x: x), found.after)
    assert found.plan.nfe == 4 and not found.plan.stochastic
    assert pickle.loads(pickle.dumps(found.plan)) == found.plan
    assert str(found.plan).count("V(x, t=") == 4
    assert float(found.after.mean()) < 0.5 * float(found.before.mean())
    assert float(found.after.mean()) == min(found.losses[:, 1].tolist())
    assert found.plan == learned(x).plan  # nothing is drawn
    cost = found.nfe
    assert cost > 24 * 40
    x = x.clone().requires_grad_()
    sample(MODEL, found.plan, x).sum().backward()
    assert x.grad is not None and bool(x.grad.isfinite().all())


def test_a_step_that_only_helps_in_training_is_not_kept():
    """Held-out noise that is already exact: whatever is learned is worse there."""
    plan = TWO.plan(VP(), grid(4))
    x = noise(12)
    found = learn_solver(
        MODEL, plan, DEIS(3).plan(VP(), grid(40)), x, steps=2, progress=False,
        features=lambda out: out * (torch.arange(len(out)) < 9)[:, None] if len(out) != 3 else out * 0,
    )  # fmt: skip
    assert float(found.after.mean()) == float(found.before.mean()) == 0.0
    assert float(found.losses[-1, 0]) < float(found.losses[0, 0])


def test_ctrl_c_gives_the_best_so_far_and_it_goes_on_from_there():
    seen = []

    def features(out):
        seen.append(1)
        if len(seen) == 60:
            raise KeyboardInterrupt
        return out

    found = learned(features=features)
    assert found.stop is Stop.INTERRUPT
    assert float(found.after.mean()) <= float(found.before.mean())
    more = learned(start=found)
    assert more.losses[0, 1] == found.losses[:, 1].min()
    assert float(more.after.mean()) <= float(found.after.mean())


def test_start_is_gone_on_from_with_all_its_parts_and_never_lost():
    found = learned(steps=1)
    for x in (noise(24), noise(24, 3)):
        target = sample(MODEL, DEIS(3).plan(VP(), grid(40)), x[18:], gradient=None)
        mine = sample(MODEL, found.plan, x[18:], gradient=None)
        reached = float(teacher_distances(mine, target, lambda x: x).mean())
        more = learned(x, start=found, steps=1)
        assert float(more.losses[0, 1]) == reached and float(more.after.mean()) <= reached
    calls = []

    def features(out):
        calls.append(1)
        if len(calls) > 6:
            raise KeyboardInterrupt
        return out

    stopped = learned(start=found, features=features)
    assert stopped.stop is Stop.INTERRUPT and stopped.plan == found.plan and stopped.theta == found.theta
    refused("learn", start=found, learn=[LearnedTimes(TWO)])
    for plan in (TWO.plan(VP(), grid(5)), TWO.plan(VP(), GivenTimes([1.0, 0.7, 0.4, 0.2, 0.02]))):
        with pytest.raises(ValueError, match="start: .*another plan"):
            learn_solver(
                MODEL, plan, DEIS(3).plan(VP(), grid(40)), noise(8), start=found,
                learn=list(found.theta), progress=False,
            )  # fmt: skip


def test_guidance_scales_are_learned_with_labels():
    def network(x, t, cond):
        return told_v(x - 0.5 * VP().alpha(t)[:, None] * cond[:, None], t)

    model = ClassifierFree(Denoiser(network, VP(), V), 2.0, torch.tensor(0.0))
    x, cond = noise(24), torch.arange(24) % 2 + 0.5
    plan, teacher = TWO.plan(VP(), grid(4)), DEIS(3).plan(VP(), grid(40))
    found = learn_solver(model, plan, teacher, x, learn=[LearnedScale()], cond=cond, steps=6, progress=False)
    assert found.scale is not None and found.scale.shape == (4,) and found.plan == plan
    assert float(found.after.mean()) < 0.95 * float(found.before.mean())
    given = found.cond(cond[18:])
    assert isinstance(given, Guided) and isinstance(given.scale, PerStep)
    out = sample(model, found.plan, x[18:], cond=given, gradient=None)
    target = sample(model, teacher, x[18:], cond=cond[18:], gradient=None)
    assert (teacher_distances(out, target, lambda x: x) - found.after).abs().max() < 1e-12


def refused(match, error=ValueError, **options):
    with pytest.raises(error, match=match):
        learned(**options)


def test_what_cannot_be_learned_is_refused_before_any_call():
    plan, teacher = TWO.plan(VP(), grid(4)), DEIS(3).plan(VP(), grid(40))
    for bad, good in ((DDPM().plan(VP(), grid(4)), teacher), (plan, DDPM().plan(VP(), grid(40)))):
        with pytest.raises(ValueError, match="draws noise"):
            learn_solver(MODEL, bad, good, noise(8))
    with pytest.raises(ValueError, match="same ends"):
        learn_solver(MODEL, plan, DEIS(3).plan(VP(), UniformLambda(40, 1.0, 0.01)), noise(8))
    refused("different kinds", learn=[LearnedLabels(), LearnedLabels()])
    refused("different kinds", learn=[])
    refused("held_out", held_out=24)
    refused("PerStep", cond=PerStep(torch.zeros(4, 1)))
    refused("expected the method", learn=[LearnedTimes(DEIS(3))])
    refused("LearnedScale", learn=[LearnedScale()])
    stacked = TWO.plan(VP(), torch.stack([grid(4).times(VP())] * 8, 1))
    with pytest.raises(ValueError, match="one grid"):
        learn_solver(MODEL, stacked, teacher, noise(8))


@pytest.mark.slow
def test_five_learned_calls_match_ten_of_2m_on_a_mixture():
    teacher = DEIS(3).plan(VP(), grid(100))
    found = learn_solver(
        MODEL, TWO.plan(VP(), grid(5)), teacher, noise(48),
        learn=[LearnedTimes(TWO), LearnedCoefficients(), LearnedLabels()], steps=15, progress=False,
    )  # fmt: skip
    x = noise(200, 7)
    target = sample(MODEL, teacher, x, gradient=None)
    mine = teacher_distances(sample(MODEL, found.plan, x, gradient=None), target, lambda x: x)
    theirs = teacher_distances(sample(MODEL, TWO.plan(VP(), grid(10)), x, gradient=None), target, lambda x: x)
    assert float(mine.median()) < float(theirs.median())
