"""`steer` and the interface of guides: null guides change nothing, costs are counted, batch mates do not matter."""

import ast
import inspect
import pathlib
import sys
from dataclasses import dataclass

import pytest
import torch
from guides import ENDS, EVERY, GUIDES, MODEL, PLAN, PRIOR, PROCESS, SEEN, Spy, named
from problems import VARIANTS

from pullback import guidance
from pullback.adjoint import sample
from pullback.guidance import DPS, MPGD, TMPD, FlowChef, Guide, Raw, Through, Unit, Window, steer
from pullback.guidance.guides.guide import Hook, Together
from pullback.guidance.guides.validity import refusal
from pullback.solvers import (
    BDIA,
    DATA,
    DDIM,
    DDPM,
    EDICT,
    OBELM,
    Addressed,
    Denoiser,
    DPMSolverPP,
    Noise,
    UniformLambda,
    UniPC,
    V,
)
from pullback.solvers.loop import execute, predict
from pullback.solvers.program import prepare

X = torch.randn(4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
NOISE_SOURCE = Addressed(11)


def test_every_public_guide_is_enrolled():
    public = {
        thing for thing in vars(guidance).values() if inspect.isclass(thing) and issubclass(thing, Guide)
    }
    assert public - {Guide, guidance.Twist} | {Together} == set(GUIDES)


class Null(Guide):
    differentiates = True

    def data(self, ctx, data):
        return data

    def velocity(self, ctx, velocity):
        return velocity


@pytest.mark.parametrize("method", [v for vs in VARIANTS.values() for v in (vs[0], vs[-1])], ids=str)
@pytest.mark.parametrize("prediction", [DATA, V], ids=str)
def test_a_guide_that_does_nothing_changes_no_bit(method, prediction):
    plan = method.plan(PROCESS, UniformLambda(5, **ENDS))
    exact = PRIOR.denoiser(PROCESS)

    def network(x, t):
        alpha, sigma = PROCESS.alpha(t)[:, None], PROCESS.sigma(t)[:, None]
        return (alpha * x - exact(x, t)) / sigma if prediction is V else exact(x, t)

    model = Denoiser(network, PROCESS, prediction)
    found = steer(model, plan, X, Null(), noise=NOISE_SOURCE)
    assert torch.equal(found.sample, sample(model, plan, X, noise=NOISE_SOURCE, gradient=None))
    assert found.nfe == plan.nfe and found.vjps == 0 and bool(found.losses.isnan().all())


@pytest.mark.parametrize("method", [v for vs in VARIANTS.values() for v in (vs[0], vs[-1])], ids=str)
def test_data_and_velocity_hooks_act_on_every_plan(method):
    """Shifting D by c, and the velocity by alpha' c + sigma' (-alpha/sigma) c, are the same."""

    class Shift(Guide):
        def data(self, ctx, data):
            return data + 0.1

    class Push(Guide):
        def velocity(self, ctx, velocity):
            p, t = PROCESS, ctx.time
            return velocity + 0.1 * ctx.spread(p.d_alpha(t) - p.d_sigma(t) * p.alpha(t) / p.sigma(t))

    plan = method.plan(PROCESS, UniformLambda(5, **ENDS))
    shifted = Denoiser(lambda x, t: MODEL(x, t) + 0.1, PROCESS, DATA)
    want = sample(shifted, plan, X, noise=NOISE_SOURCE, gradient=None)
    for guide in (Shift(), Push()):
        assert torch.allclose(steer(MODEL, plan, X, guide, noise=NOISE_SOURCE).sample, want, atol=1e-8)


@pytest.mark.parametrize("guide", EVERY, ids=named)
def test_batch_mates_do_not_matter(guide):
    whole = steer(MODEL, PLAN, X, guide, noise=NOISE_SOURCE)
    for b in range(4):
        one = steer(MODEL, PLAN, X[b : b + 1], guide, noise=Addressed(11, samples=[b]))
        assert torch.allclose(whole.sample[b], one.sample[0], atol=1e-10, rtol=1e-10)
        assert torch.allclose(whole.losses[:, b], one.losses[:, 0], atol=1e-10, rtol=1e-8, equal_nan=True)


def test_a_guides_draws_are_addressed_by_sample():
    seen = []

    class Drawing(Spy):
        pass

    def look(ctx):
        seen.append((ctx.draw(), ctx.draw()))

    steer(MODEL, PLAN, X, Drawing(look), noise=NOISE_SOURCE)
    whole, seen[:] = seen[:], []
    for b in range(4):
        steer(MODEL, PLAN, X[b : b + 1], Drawing(look), noise=Addressed(11, samples=[b]))
    for k, (first, second) in enumerate(whole):
        assert not torch.equal(first, second) and not torch.equal(first, NOISE_SOURCE(k, X))
        for b in range(4):
            assert torch.equal(first[b], seen[8 * b + k][0][0]) and torch.equal(
                second[b], seen[8 * b + k][1][0]
            )


@pytest.mark.parametrize("guide", EVERY, ids=named)
def test_costs_are_counted_and_no_call_is_wasted(guide):
    forwards, backwards = [0], [0]

    class Counted(torch.autograd.Function):
        @staticmethod
        def forward(ctx, value):
            return value.clone()

        @staticmethod
        def backward(ctx, *grad_outputs):
            backwards[0] += 1
            return grad_outputs[0]

    def network(x, t):
        forwards[0] += 1
        return Counted.apply(MODEL(x, t))

    found = steer(Denoiser(network, PROCESS, DATA), PLAN, X, guide, noise=NOISE_SOURCE)
    assert found.nfe == forwards[0] and found.vjps == backwards[0]
    assert bool(found.sample.isfinite().all()) and not found.sample.requires_grad
    assert found.losses.shape == (PLAN.steps, 4) and not bool(found.losses[3].isnan().any())
    if isinstance(guide, DPS):
        assert found.nfe == found.vjps == PLAN.nfe
    if isinstance(guide, MPGD):
        assert found.nfe == PLAN.nfe and found.vjps == 0


def own_lines(path):
    """Lines of code that are a guide's own, however it is laid out: no imports, docstrings, comments or blanks."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        for name in ("body", "orelse", "finalbody"):
            if isinstance(inner := getattr(node, name, None), list):
                setattr(node, name, [part for part in inner if not _silent(part)] or inner[:0])
    return sum(-(-len(line) // 110) for line in ast.unparse(tree).splitlines() if line.strip())


def _silent(node):
    return isinstance(node, ast.Import | ast.ImportFrom) or (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


METHODS = [k for k in GUIDES if k not in (Window, Together)]
METHODS += [getattr(guidance.edit, name) for name in guidance.edit.__all__]
METHODS += [
    guidance.d_flow,
    guidance.doodl,
    guidance.dno,
    guidance.reno,
    guidance.flow_grad,
    guidance.oc_flow,
    guidance.smc,
    guidance.svdd,
    guidance.best_of,
    guidance.pgd,
    guidance.purify,
    guidance.advdiff,
]


@pytest.mark.parametrize("kind", METHODS, ids=lambda k: k.__name__)
def test_a_method_is_under_60_lines_of_its_own(kind):
    assert 1 < own_lines(pathlib.Path(str(sys.modules[kind.__module__].__file__))) < 60


# what a plan can carry
# --------------------------------------------------------------------------------------------------


class OnState(Guide):
    def state(self, ctx, x):
        return x


@pytest.mark.parametrize("method, hooks, why", [
    (DDIM(0.5), set(), ""), (DDPM(), set(), ""), (DPMSolverPP(3), set(), ""),
    (BDIA(), {Hook.STATE, Hook.REPEAT, Hook.ACCEPT}, "a second state"),
    (EDICT(), {Hook.STATE, Hook.REPEAT, Hook.ACCEPT}, "a second state"),
    (UniPC(2), {Hook.STATE, Hook.REPEAT, Hook.ACCEPT}, "without a network call at its start"),
], ids=lambda part: "" if isinstance(part, set) else str(part))  # fmt: skip
def test_what_a_plan_can_carry(method, hooks, why):
    plan = method.plan(PROCESS, UniformLambda(5, **ENDS))
    assert {hook for hook in Hook if refusal(plan, hook)} == hooks
    if Hook.STATE in hooks:
        with pytest.raises(
            ValueError, match=rf"with the state hook, expected a plan that can carry it; this one has .*{why}"
        ):
            steer(MODEL, plan, X, OnState(), noise=NOISE_SOURCE)


def test_inverse_plans_and_rising_grids_are_refused():
    up = DDIM().plan(PROCESS, torch.linspace(0.05, 0.9, 5, dtype=torch.float64))
    back = OBELM().plan(PROCESS, UniformLambda(5, **ENDS)).inverse()
    for plan, words in ((up, "rises from data to noise"), (back, "an inverse")):
        with pytest.raises(ValueError, match=words):
            steer(MODEL, plan, X, TMPD(SEEN))


# the step
# ----------------------------------------------------------------------------------------------------------------


def test_a_state_hook_does_not_leak_into_multistep_history():
    """Moving the state by c after a step is a control of c at the next: `sample` has those."""
    plan = DPMSolverPP(2).plan(PROCESS, UniformLambda(5, **ENDS))

    class Move(Guide):
        def state(self, ctx, x):
            return x + 0.1 * (ctx.step + 1)

    controls = torch.stack([torch.full_like(X, 0.1 * k) for k in range(5)])
    want = sample(MODEL, plan, X, controls=controls, gradient=None) + 0.5
    assert torch.allclose(steer(MODEL, plan, X, Move()).sample, want, atol=1e-13)


@pytest.mark.parametrize("method", [DDIM(), DPMSolverPP(2), DDPM()], ids=str)
def test_time_travel_repeats_a_step_from_fresh_noise(method):
    """Against a loop written out, with the registers of multistep history restored before each repetition."""
    plan = method.plan(PROCESS, UniformLambda(4, **ENDS))
    draws = Addressed(11, stream=5)

    class Twice(Guide):
        def repeats(self, step, steps):
            return 2

    found = steer(MODEL, plan, X, Twice(), noise=NOISE_SOURCE, draws=draws)
    program, registers = prepare(plan, MODEL, X), {"x": X}
    levels = [(float(PROCESS.alpha(t)), float(PROCESS.sigma(t))) for t in plan.times]

    class Given(Noise):
        def __init__(self, source, slots):
            self.source, self.slots = source, slots

        def check(self, slots, like): ...

        def __call__(self, slot, like):
            return self.source(self.slots[slot], like)

    for k in range(4):
        part = program.steps(k, k + 1)
        first = execute(part, dict(registers), lambda c, s: predict(MODEL, c, s, None), NOISE_SOURCE)
        (a, s), (a_next, s_next) = levels[k], levels[k + 1]
        ratio = a / a_next
        back = ratio * first["x"] + (s**2 - (ratio * s_next) ** 2) ** 0.5 * draws(k << 40, X)
        again = Given(draws, {k: k << 40 | 1 << 24})
        registers = execute(part, {**registers, "x": back}, lambda c, s: predict(MODEL, c, s, None), again)
    assert torch.allclose(found.sample, registers["x"], atol=1e-12) and found.nfe == 8


def test_accept_reorders_every_register():
    plan = DPMSolverPP(3).plan(PROCESS, UniformLambda(5, **ENDS))
    order = torch.tensor([2, 0, 3, 1])

    class Shuffle(Guide):
        def accept(self, ctx, x):
            return order if ctx.step == 2 else None

    assert torch.allclose(
        steer(MODEL, plan, X, Shuffle()).sample, sample(MODEL, plan, X, gradient=None)[order], atol=1e-14
    )


def test_memory_lasts_for_one_run():
    class Counting(Guide):
        def state(self, ctx, x):
            kept = ctx.memory(self)
            kept["n"] = kept.get("n", 0) + 1
            return x

    guide = Counting()
    assert [steer(MODEL, PLAN, X, guide, noise=NOISE_SOURCE).memory(guide)["n"] for _ in range(2)] == [8, 8]


def test_guides_add_up_and_windows_open():
    a, b = TMPD(SEEN), FlowChef(SEEN, Raw(0.03))
    one, other = (steer(MODEL, PLAN, X, g, noise=NOISE_SOURCE) for g in (a + b, b + a))
    assert torch.allclose(one.sample, other.sample, atol=1e-13) and torch.allclose(one.losses, other.losses)
    steps = []
    steer(MODEL, PLAN, X, Spy(lambda ctx: steps.append(ctx.step)).during(0.25, 0.75), noise=NOISE_SOURCE)
    assert steps == [2, 3, 4, 5]
    late = steer(MODEL, PLAN, X, TMPD(SEEN).during(0.5, 1.0), noise=NOISE_SOURCE)
    assert late.vjps == 8 and bool(late.losses[:4].isnan().all()) and not bool(late.losses[4:].isnan().any())
    assert len((a + b + a).parts()) == 3


@pytest.mark.parametrize("start, stop", [(0.5, 0.5), (0.6, 0.5), (-0.1, 0.5), (0.5, 1.1)])
def test_a_window_is_a_part_of_the_run(start, stop):
    for made in (TMPD(SEEN).during, lambda start, stop: guidance.Travel(2, start, stop)):
        made(0.0, 1.0)
        made(0.25, 0.5)
        with pytest.raises(ValueError, match="expected .*0 <= start < stop <= 1"):
            made(start, stop)


# gradients of the run
# ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "guide",
    [
        DPS(SEEN, Raw(0.05)),
        TMPD(SEEN),
        DPS(SEEN, Unit(0.1)),
        MPGD(SEEN, Raw(0.1)),
        guidance.Lookahead(SEEN.nats, 2),
    ],
    ids=named,
)
def test_the_run_can_be_differentiated_through_its_guide(guide):
    plan = DDIM().plan(PROCESS, UniformLambda(4, **ENDS))
    x = X.clone().requires_grad_()
    found = steer(MODEL, plan, x, guide, through=Through.FULL)
    direction, weight, h = torch.randn_like(X), torch.randn_like(X), 1e-6
    (slope,) = torch.autograd.grad((found.sample * weight).sum(), x)
    ends = [steer(MODEL, plan, X + s * h * direction, guide).sample for s in (1, -1)]
    want = ((ends[0] - ends[1]) * weight).sum() / (2 * h)
    assert torch.allclose((slope * direction).sum(), want, rtol=2e-6, atol=1e-7)
    assert torch.allclose(found.sample, steer(MODEL, plan, X, guide).sample, atol=1e-12)


def test_stopped_holds_the_corrections_constant():
    plan = DDIM().plan(PROCESS, UniformLambda(4, **ENDS))
    for guide in (TMPD(SEEN), DPS(SEEN, Raw(0.05))):
        x = X.clone().requires_grad_()
        found = steer(MODEL, plan, x, guide, through=Through.STOPPED)
        (slope,) = torch.autograd.grad(found.sample.sum(), x)
        # the same corrections as constants, written into a plain loop
        moves, states = [], []
        steer(MODEL, plan, X, guide, callback=lambda k, t, s: states.append(s))  # noqa: B023
        y = X.clone().requires_grad_()
        state = y
        for k in range(4):
            one = DDIM().plan(PROCESS, torch.tensor(plan.times[k : k + 2], dtype=torch.float64))
            moved = sample(MODEL, one, state)
            moves.append(states[k + 1] - moved.detach())
            state = moved + moves[-1]
        assert torch.allclose(found.sample, state, atol=1e-12)
        assert torch.allclose(slope, torch.autograd.grad(state.sum(), y)[0], atol=1e-10)


@dataclass(frozen=True)
class Shove(Guide):
    """Every state moved by so much."""

    by: float

    def state(self, ctx, x):
        return x + self.by


def test_two_guides_of_one_hook_both_count():
    run = [
        steer(MODEL, PLAN, X, guide, noise=NOISE_SOURCE).sample
        for guide in (Shove(0.01) + Shove(0.02), Shove(0.03))
    ]
    assert torch.allclose(*run, rtol=1e-12)
