"""Plans cut in two: head then tail is the whole, for every method at every cut; registers live as long as needed."""

import pickle

import pytest
import torch
from problems import MIXTURE, PROCESS, every_method, slots_of, warped

from pullback.adjoint import Checkpoint, Direct, sample
from pullback.solvers import (
    BDIA,
    DDIM,
    Addressed,
    Apply,
    Brownian,
    CorrectorMode,
    DPMSolverPP,
    FlowAdams,
    GivenNoise,
    Method,
    RectifiedFlow,
    SASolver,
    SDEDPMSolverPP,
    UniformT,
    UniPC,
    advance,
    expand,
    run,
)
from pullback.solvers.plan import Plan

GRID = PROCESS.time(warped(6))


@pytest.mark.parametrize("method", every_method(), ids=str)
def test_head_then_tail_is_the_whole(method):
    """At every cut, 0 and N included: through `run`, through `sample`, after pickling, and printed."""
    plan, model, x = method.plan(PROCESS, GRID), MIXTURE.denoiser(PROCESS), torch.randn(3, 2)
    noise = GivenNoise(torch.randn(max(plan.slots, slots_of(method, 6)), 3, 2))
    whole = run(model, plan, x, noise=noise)
    for cut in range(plan.steps + 1):
        head, tail = pickle.loads(pickle.dumps(plan.split(cut)))
        assert (head, tail) == plan.split(cut)
        assert (head.steps, tail.steps) == (cut, plan.steps - cut)
        assert head.instructions + tail.instructions == plan.instructions
        assert head.exit == tail.entry and head.exit[0] == "x"
        between = advance(model, head, x, noise=noise)
        assert tuple(between) == tail.entry
        assert (run(model, tail, between, noise=noise) - whole).abs().max() < 1e-12
        if cut == 3:
            assert (sample(model, tail, between, noise=noise) - whole).abs().max() < 1e-12
        assert all(str(part).count("\n") == len(part.instructions) for part in (head, tail))


@pytest.mark.parametrize("method", [DPMSolverPP(3), FlowAdams(4), UniPC(3), BDIA()], ids=str)
def test_what_a_multistep_method_remembers_is_named(method):
    plan = method.plan(RectifiedFlow(), UniformT(6, start=0.95, end=0.05))
    head, tail = plan.split(3)
    want = {DPMSolverPP: ("x", "D1", "D2"), FlowAdams: ("x", "u0", "u1", "u2"), BDIA: ("x", "y")}
    assert tail.entry == want.get(type(method), ("x", "D1", "D2", "D3"))
    assert f"starts from {', '.join(tail.entry)}" in str(tail) and f"leaves {', '.join(head.exit)}" in str(
        head
    )
    again, rest = tail.split(1)
    assert again.entry == tail.entry and again.exit == rest.entry and rest.exit == ("x",)


def test_a_tail_is_differentiable_in_all_its_registers():
    plan, model = DPMSolverPP(3).plan(PROCESS, GRID), MIXTURE.denoiser(PROCESS)
    head, tail = plan.split(3)
    between = advance(model, head, torch.randn(3, 2))
    for value in between.values():
        value.requires_grad_()
    grads = [
        torch.autograd.grad(
            sample(model, tail, between, controls=torch.zeros(3, 3, 2), gradient=g).square().sum(),
            list(between.values()),
        )
        for g in (Checkpoint(), Checkpoint(recursive=True), Direct())
    ]
    for one, two, exact in zip(*grads, strict=True):
        assert torch.allclose(one, exact, atol=1e-13) and torch.allclose(two, exact, atol=1e-13)
        assert exact.abs().max() > 0


def test_a_reversible_head_is_undone():
    plan, model, x = BDIA().plan(PROCESS, GRID), MIXTURE.denoiser(PROCESS), torch.randn(3, 2)
    head, tail = plan.split(4)
    back = run(model, head.inverse(), advance(model, head, x))
    assert (back - x).abs().max() < 1e-12 and tail.inverse().exit == ("x", "y")


def test_what_does_not_fit_is_said():
    plan, model, x = DPMSolverPP(3).plan(PROCESS, GRID), MIXTURE.denoiser(PROCESS), torch.randn(3, 2)
    _, tail = plan.split(3)
    with pytest.raises(ValueError, match=r"got registers \['x'\], expected \['D1', 'D2', 'x'\].*advance"):
        run(model, tail, x)
    with pytest.raises(ValueError, match="starts from"):
        expand(tail)
    with pytest.raises(ValueError, match="split: got step 7, expected 0 to 6"):
        plan.split(7)
    noisy = SDEDPMSolverPP(2).plan(PROCESS, GRID)
    with pytest.raises(ValueError, match="slots 3 to 5, expected slots from 0"):
        Brownian(0, low=-6.0, high=6.0).on(noisy.split(3)[1])


@pytest.mark.parametrize("process", [RectifiedFlow(), PROCESS], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize(
    "method",
    [
        UniPC(1),
        UniPC(3),
        SASolver(3, 4),
        SASolver(2, 3, evaluation=CorrectorMode.PECE),
        DPMSolverPP(3),
        DDIM(),
    ],
    ids=str,
)
def test_the_last_step_to_sigma_zero_opens_with_a_state(method, process):
    """After a corrector that step reads a prediction and no state; the caller reads it all the same."""
    plan = method.plan(process, UniformT(5, end=0.0) if isinstance(process, RectifiedFlow) else UniformT(5))
    model, x, noise = MIXTURE.denoiser(process), torch.randn(3, 2, requires_grad=True), Addressed(0)
    controls, want, grads = torch.zeros(5, 3, 2, requires_grad=True), run(model, plan, x, noise=noise), []
    for g in (None, Direct(), Checkpoint()):
        seen: list[int] = []

        def note(step, t, state, seen=seen):
            seen.append(step)

        out = sample(model, plan, x, noise=noise, controls=controls, gradient=g, callback=note)
        assert torch.allclose(out, want, atol=1e-12) and seen == list(range(6))
        if g is not None:
            grads.append(torch.autograd.grad(out.square().sum(), [x, controls]))
    for left, right in zip(*grads, strict=True):
        assert torch.allclose(left, right, atol=1e-12)


def test_an_apply_at_the_end_is_refused_by_name():
    base = BDIA().plan(PROCESS, GRID)
    plan = Plan(
        "clamped",
        PROCESS,
        base.times,
        (*base.instructions, Apply(("x",), ("x",), torch.tanh)),
        base.starts,
        1,
        False,
    )
    assert torch.equal(
        run(MIXTURE.denoiser(PROCESS), plan, torch.ones(1, 2)),
        run(MIXTURE.denoiser(PROCESS), base, torch.ones(1, 2)).tanh(),
    )
    with pytest.raises(ValueError, match=r"clamped: got the Apply x <- tanh\(x\) at instruction"):
        plan.inverse()


def test_registers_of_another_shape_than_x_are_refused():
    """One sample's history would be broadcast to all of them, without a word."""
    head, tail = DPMSolverPP(2).plan(PROCESS, UniformT(6, start=0.95, end=0.02)).split(3)
    held = advance(MIXTURE.denoiser(PROCESS), head, torch.randn(3, 2))
    with pytest.raises(ValueError, match=r"D2: got shape \(1, 2\), expected \(3, 2\)"):
        run(MIXTURE.denoiser(PROCESS), tail, {"x": held["x"], "D2": held["D2"][:1]})


def test_a_method_that_reads_what_nothing_wrote_is_refused_when_it_is_compiled():
    class Forgetful(Method):
        order = 1

        def step(self, b, i):
            b.combine("x", (1.0, "x"), (0.5, f"E{i}"))

    with pytest.raises(ValueError, match=r"Forgetful.*'E0'.*first_order"):
        Forgetful().plan(PROCESS, UniformT(2, end=0.1))
