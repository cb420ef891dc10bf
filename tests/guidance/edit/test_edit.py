"""Inversions and edits beside RF-Inversion: identities, closed forms, orders, round trips, batches, refusals."""

import math
from typing import Any

import pytest
import torch
from flows import ball, exact_flow, plane
from problems import MIXTURE

from pullback.adjoint import Checkpoint, Direct
from pullback.guidance import edit
from pullback.guidance.edit.fixed_point import anderson
from pullback.solvers import (
    BDIA,
    DDIM,
    DDPM,
    EDICT,
    FLOW,
    OBELM,
    VP,
    Addressed,
    Denoiser,
    DPMSolverPP,
    FlowEuler,
    FlowMidpoint,
    Gaussian,
    Mixture,
    RectifiedFlow,
    ReversibleHeun,
    Rising,
    Shifted,
    UniformLambda,
    UniformT,
    run,
)

A, B = torch.tensor([0.5, -0.2], dtype=torch.float64), torch.tensor([-0.9, 0.6], dtype=torch.float64)
DOWN = UniformLambda(50, start=0.9, end=0.02)
UP = Rising(DOWN)


def wide() -> tuple[Denoiser, torch.Tensor]:
    """Six Gaussians in 16 dimensions under VP, and 64 of their data."""
    generator = torch.Generator().manual_seed(0)
    law = Mixture.isotropic(torch.ones(6), torch.randn(6, 16, generator=generator), 0.3)
    return law.denoiser(VP()), law.sample(64, generator)


def known(value: Any) -> Any:
    assert value is not None
    return value


def rms(x: torch.Tensor) -> float:
    return float(x.double().square().mean().sqrt())


# inversion along the ODE
# ------------------------------------------------------------------------------------------------


def test_rf_solver_is_the_midpoint_rule():
    """Its Taylor step with a finite difference, as printed, against `FlowMidpoint`."""
    flow, x = plane(3)
    plan = FlowMidpoint().plan(flow.process, Shifted(6))
    y = x
    for t, h in zip(plan.times, torch.tensor(plan.times).diff().tolist(), strict=False):
        at = torch.full((3,), float(t))  # type: ignore[arg-type]
        u = flow(y, at)
        slope = (flow(y + h / 2 * u, at + h / 2) - u) / (h / 2)
        y = y + h * u + h * h / 2 * slope
    assert torch.allclose(run(flow, plan, x), y, atol=1e-13)


def round_trip(call, flow, x, steps):
    return rms(call(flow, x, source=None, target=None, grid=UniformT(steps)).sample - x)


@pytest.mark.parametrize(
    ("call", "order"),
    [(edit.rf_solver, 2), (edit.fireflow, 2), (edit.ddim_inversion, 1)],
    ids=["rf", "fire", "ddim"],
)
def test_order_of_fireflow_rf_solver_and_ddim(call, order):
    """Error of the latent against the exact flow; halving the steps divides it by 2^order.

    On a mixture: along an isotropic Gaussian's flow the midpoint rule happens to be of third order.
    """
    flow, x = plane(4)
    exact = MIXTURE.flow(x, flow.process, 0.1, 0.7)
    grids = [UniformT(n, start=0.7, end=0.1) for n in (40, 80, 160)]
    errors = [rms(call(flow, x, source=None, target=None, grid=grid).latent - exact) for grid in grids]
    rates = [math.log2(a / b) for a, b in zip(errors, errors[1:], strict=False)]
    assert abs(rates[-1] - order) < 0.15, (errors, rates)


def test_calls_and_errors_of_the_inversions():
    flow, x = plane(8)
    calls = {edit.ddim_inversion: 40, edit.rf_solver: 80, edit.fireflow: 42}
    for call, nfe in calls.items():
        assert call(flow, x, source=None, target=None, grid=UniformT(20)).nfe == nfe
    ddim, rf, fire = (round_trip(call, flow, x, 20) for call in calls)
    assert rf < 1e-4 and fire < 5e-4 and 0.01 < ddim < 0.1  # measured: 4.3e-5, 2.4e-4, 0.080


def test_the_round_trips_of_the_table():
    """50 steps, exact model in 16 dimensions: DDIM 0.20, BDIA 4e-16, OBELM 3e-16, ReversibleHeun 4e-16,
    recovered noise 7e-19.

    EDICT 2e-9: it amplifies the difference of its states by p^-2 a step, 1400 in all; 4e-16 was measured on
    another problem.
    """
    model, x = wide()
    same: dict[str, Any] = {"source": None, "target": None}
    assert 1e-3 < rms(edit.ddim_inversion(model, x, grid=DOWN, **same).sample - x) < 0.25
    for method, bound in ((EDICT(), 1e-8), (BDIA(), 1e-14), (OBELM(), 1e-14), (ReversibleHeun(), 1e-14)):
        plan = method.plan(model.process, UP)
        assert rms(edit.exact_inversion(model, plan, x, **same).sample - x) < bound, method
    plan = DDPM().plan(model.process, DOWN)
    for call in (edit.cycle_diffusion, edit.edit_friendly):
        assert rms(call(model, plan, x, **same).sample - x) < 1e-16


def test_bdia_below_one_is_lost():
    """gamma^-50 times round-off: 0.11 here in float64."""
    model, x = wide()
    lost = rms(
        edit.exact_inversion(model, BDIA(0.5).plan(model.process, UP), x, source=None, target=None).sample - x
    )
    assert lost > 1e-3


def test_exact_inversion_edits():
    """Equal data up to a shift: under another condition the edit is the shift, as far as the solver knows the flow."""
    law = Gaussian(torch.zeros(2), 0.25)
    model, x = law.denoiser(VP()), torch.tensor([[0.3, -0.6]])
    plan = OBELM().plan(VP(), Rising(UniformLambda(400, start=0.9999, end=0.001)))
    moved = edit.exact_inversion(model, plan, x, source=torch.zeros(2), target=B)
    assert torch.allclose(moved.sample, x + B, atol=5e-3) and set(moved.latent) == {"x", "y"}


class Shift(torch.nn.Module):
    """The flow on N(cond, 0.25): a module without parameters, so that nothing undeclared can be captured."""

    def forward(self, x, t, cond):
        return ball().network(x, t, cond["mean"])


@pytest.mark.parametrize("call", [edit.ddim_inversion, edit.rf_inversion], ids=["ddim", "rf"])
def test_a_strategy_serves_the_pass_that_wants_a_gradient(call):
    """Only the target wants one, inside a dict: the inversion, which has nothing to differentiate, is no error."""
    used = []

    class Noted(Checkpoint):
        def run(self, rollout, registers):
            used.append(rollout)
            return super().run(rollout, registers)

    flow, image, target = (
        Denoiser(Shift(), RectifiedFlow(), FLOW),
        torch.ones(1, 2),
        B.clone().requires_grad_(),
    )
    conds: dict[str, Any] = {"source": {"mean": A}, "target": {"mean": target}}
    found = [
        torch.autograd.grad(call(flow, image, grid=UniformT(4), gradient=g, **conds).sample.sum(), target)[0]
        for g in (Noted(), Direct())
    ]
    assert (
        torch.allclose(found[0], found[1], atol=1e-14)
        and float(found[0].abs().min()) > 0.1
        and len(used) == 1
    )


# AIDI
# -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", [0, 1, 3])
@pytest.mark.parametrize("kind", ["ddim", "euler"])
def test_aidi_inverts_the_sampler_itself(kind, memory):
    if kind == "ddim":
        model, x = wide()
        plan = DDIM().plan(model.process, DOWN)
    else:
        model, x = plane(8)
        plan = FlowEuler().plan(model.process, UniformT(20))
    found = edit.aidi(model, plan, x, source=None, target=None, memory=memory, iterations=80, tolerance=1e-11)
    assert float(known(found.residual).max()) <= 1e-11
    assert float((found.sample - x).abs().max()) < 1e-9


def test_anderson_needs_fewer_calls():
    model, x = plane(8)
    plan = FlowEuler().plan(model.process, UniformT(10))
    same: dict[str, Any] = {"source": None, "target": None, "iterations": 200, "tolerance": 1e-11}
    plain, fast = (edit.aidi(model, plan, x, memory=m, **same).nfe for m in (0, 3))
    assert fast < 0.7 * plain


def test_anderson_solves_a_linear_system_in_as_many_steps_as_it_has_unknowns():
    """On an affine map it is GMRES: d + 1 evaluations and one to see it, where the plain iteration diverges."""
    matrix = torch.diag(torch.tensor([0.3, -0.8, 1.9, 2.5]))
    b = torch.tensor([[1.0, 2.0, -1.0, 0.5]])
    x, left, count = anderson(lambda x: b - x @ matrix, torch.zeros(1, 4), 40, 4, 1e-10)
    assert count <= 8 and float(left) < 1e-10 and torch.allclose(x @ matrix, b, atol=1e-9)
    assert float(anderson(lambda x: b - x @ matrix, torch.zeros(1, 4), 40, 0, 1e-10)[1]) > 0.1


def test_aidi_reports_what_is_left():
    model, x = plane(4)
    found = edit.aidi(
        model, FlowEuler().plan(model.process, UniformT(5)), x, source=None, target=None, iterations=2
    )
    assert float(known(found.residual).min()) > 1e-4


# FlowEdit
# ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("average", [1, 3])
def test_equal_conditions_change_no_bit(average):
    flow, image = plane(5)
    found = edit.flow_edit(
        flow, image, source=A, target=A.clone(), n_avg=average, source_scale=2.0, target_scale=2.0
    )
    assert torch.equal(found.sample, image) and found.nfe == 48 * average


@pytest.mark.parametrize("steps", [1, 2, 7, 28])
def test_equal_covariances_are_translated_exactly(steps):
    """From t = 1, whatever the noise and the number of Euler steps."""
    cov = torch.tensor([[0.5, 0.2], [0.2, 0.3]])
    flow, image = exact_flow(Gaussian(torch.tensor([0.1, 0.4]), cov)), torch.tensor([[0.3, 1.0], [-2.0, 0.0]])
    found = edit.flow_edit(
        flow, image, source=A, target=B, grid=UniformT(steps), n_max=steps, noise=Addressed(steps)
    )
    assert float((found.sample - image - (B - A)).abs().max()) < 1e-14


def test_the_translation_from_inside():
    """From t_max: (b - a)(1 - (1 - t) s / sqrt((1 - t)^2 s^2 + t^2)); Euler tends to it as 1/N."""
    s, t = 0.5, 0.75
    flow, image = ball(s * s), torch.tensor([[0.3, 1.0]])
    wanted = (B - A) * (1 - (1 - t) * s / math.sqrt((1 - t) ** 2 * s**2 + t**2))
    errors = []
    for steps in (100, 200, 400):
        found = edit.flow_edit(flow, image, source=A, target=B, grid=UniformT(steps), n_max=steps * 3 // 4)
        errors.append(float((found.sample - image - wanted).abs().max()))
    assert all(1.9 < a / b < 2.1 for a, b in zip(errors, errors[1:], strict=False)) and errors[-1] < 2e-3, (
        errors
    )


def test_the_last_steps_sample():
    """n_min = n_max is SDEdit under Euler; in between the two parts follow one another."""
    flow, image = plane(3)
    found = edit.flow_edit(
        flow, image, source=A, target=B, grid=UniformT(10), n_max=6, n_min=6, noise=Addressed(1)
    )
    times = UniformT(10).times(flow.process)[4:]
    start = (1 - times[0]) * image + times[0] * Addressed(1)(0, image)
    assert (
        torch.equal(found.sample, run(flow, FlowEuler().plan(flow.process, times), start, B))
        and found.nfe == 6
    )
    mixed = edit.flow_edit(flow, image, source=A, target=B, grid=UniformT(10), n_max=6, n_min=2, n_avg=2)
    assert mixed.nfe == 18


@pytest.mark.parametrize(
    "call", [edit.cycle_diffusion, edit.edit_friendly, edit.sdedit], ids=lambda f: f.__name__
)
def test_calls_are_counted(call):
    calls = []

    def network(x, t, cond):
        calls.append(1)
        return 0.1 * x + cond

    model, plan = Denoiser(network, VP(), FLOW), DDPM().plan(VP(), UniformLambda(4, start=0.9, end=0.05))
    given = {} if call is edit.sdedit else {"source": A}
    found = call(model, plan, torch.randn(3, 2), target=B, gradient=None, **given)
    assert found.nfe == len(calls)


def test_flow_edit_is_the_papers_loop():
    flow, image = plane(3)
    times = Shifted(9).times(flow.process)
    z = image
    for i in range(2, 9):
        t, h = times[i].expand(3), times[i + 1] - times[i]
        change = 0
        for j in range(2):
            noisy = (1 - times[i]) * image + times[i] * Addressed(3)((i - 2) * 2 + j, image)
            change = change + (flow(z + noisy - image, t, B) - flow(noisy, t, A)) / 2
        z = z + h * change
    found = edit.flow_edit(
        flow, image, source=A, target=B, grid=Shifted(9), n_max=7, n_avg=2, noise=Addressed(3)
    )
    assert torch.allclose(found.sample, z, atol=1e-13)


@pytest.mark.parametrize("gradient", [Direct(), Checkpoint()], ids=["direct", "checkpoint"])
@pytest.mark.slow
def test_gradients_through_flow_edit(gradient):
    flow, image = plane(2)

    def edited(image, source, target):
        found = edit.flow_edit(
            flow, image, source=source, target=target, grid=UniformT(5), n_max=4, n_min=1, gradient=gradient
        )
        return found.sample

    assert torch.autograd.gradcheck(edited, [v.clone().requires_grad_() for v in (image, A, B)])


# recovered and fresh noise
# ----------------------------------------------------------------------------------------------


def test_recovered_noise_has_the_known_size():
    """One path: unit variance up to O(h), 1.03 under DDPM with 50 steps. Independent states: about 1/h, 2.71
    and then 5.31.
    """
    model, x = wide()
    for steps, wide_std in ((50, 2.71), (200, 5.31)):
        plan = DDPM().plan(model.process, UniformLambda(steps, start=0.9, end=0.02))
        one = known(edit.cycle_diffusion(model, plan, x, source=None, target=None).noise).values
        many = known(edit.edit_friendly(model, plan, x, source=None, target=None).noise).values
        assert abs(float(one.std()) - 1) < 1.6 / steps and abs(float(many.std()) / wide_std - 1) < 0.02


def test_cycle_diffusion_edits_and_differentiates():
    model, x = MIXTURE.denoiser(VP()), MIXTURE.sample(3, torch.Generator().manual_seed(1))
    plan = DDPM().plan(VP(), UniformLambda(12, start=0.9, end=0.02))
    target = B.clone().requires_grad_()
    found = edit.cycle_diffusion(model, plan, x, source=A, target=target)
    assert torch.autograd.gradcheck(
        lambda c: edit.cycle_diffusion(model, plan, x, source=A, target=c).sample, [target]
    )
    assert rms(found.sample.detach() - x - (B - A)) < rms(B - A)


def test_sdedit_starts_from_the_noised_image():
    model, x = MIXTURE.denoiser(VP()), MIXTURE.sample(3, torch.Generator().manual_seed(1))
    plan = DDPM().plan(VP(), UniformLambda(12, start=0.6, end=0.02))
    t = torch.tensor(0.6)
    start = VP().alpha(t) * x + VP().sigma(t) * Addressed(2).initial(x)
    found = edit.sdedit(model, plan, x, target=B, noise=Addressed(2))
    assert torch.allclose(found.latent, start, atol=1e-15)
    assert (
        torch.allclose(found.sample, run(model, plan, start, B, Addressed(2)), atol=1e-13) and found.nfe == 12
    )


def grey() -> tuple[Denoiser, torch.Tensor]:
    """Smooth random 8 x 8 images, and two of them."""
    at = torch.cartesian_prod(torch.arange(8.0), torch.arange(8.0))
    law = Gaussian(torch.zeros(64), 0.3 * torch.exp(-torch.cdist(at, at).square() / 8) + 1e-3 * torch.eye(64))
    return law.denoiser(VP()), law.sample(2, torch.Generator().manual_seed(0)).reshape(2, 1, 8, 8)


def test_sde_drag_cuts_and_pastes_in_the_noise():
    """One round, written out; and equal points are the identity."""
    from pullback.solvers import recover_noise

    model, image = grey()
    plan = DDPM().plan(VP(), UniformLambda(10, start=0.6, end=0.02))
    found = edit.sde_drag(model, plan, image, source=(2, 2), target=(2, 4), radius=1, noise=Addressed(5))
    start, draws = recover_noise(model, plan, image, noise=Addressed(5, stream=1))
    patch = start[:, :, 1:4, 1:4].clone()
    start[:, :, 1:4, 1:4] = 0.3 * patch + 0.91**0.5 * Addressed(5, stream=1).initial(image)[:, :, 1:4, 1:4]
    start[:, :, 1:4, 3:6] = 1.1 * patch
    assert torch.allclose(found.sample, run(model, plan, start, None, draws), atol=1e-12) and found.nfe == 20
    assert edit.sde_drag(model, plan, image, source=(2, 2), target=(5, 5), radius=1).nfe == 40
    assert torch.equal(
        edit.sde_drag(model, plan, image, source=(2, 2), target=(2, 2), radius=1).sample, image
    )


def test_code_clips_and_climbs():
    """Without steps and inside the limits it is the ODE's round trip; outside it comes back in; temperature 0
    climbs log p.
    """
    law = Gaussian(torch.zeros(2), 0.1)
    model, grid = law.denoiser(VP()), UniformLambda(60, start=0.5, end=0.02)
    x = torch.tensor([[0.3, -0.2], [9.0, 0.1]])
    plain = edit.ddim_inversion(model, x, source=None, target=None, grid=grid).sample
    none = edit.code(model, x, grid=grid, steps=0).sample
    assert torch.allclose(none[0], plain[0], atol=1e-13) and float(none[1, 0]) < 0.5 * float(plain[1, 0])
    t = torch.tensor(0.5, dtype=torch.float64)
    climbed = edit.code(model, x, grid=grid, steps=1, temperature=0.0, rate=0.1, width=100.0)
    up = edit.ddim_inversion(model, x, source=None, target=None, grid=grid).latent
    clipped = edit.code(model, torch.tensor([[9.0, -9.0]]), grid=grid, steps=0).latent
    bound = VP().alpha(t) + 2 * VP().sigma(t)  # data in [-1, 1], and two deviations of the noise
    assert torch.allclose(clipped, torch.stack([bound, -bound])[None])
    variance = VP().alpha(t) ** 2 * 0.1 + VP().sigma(t) ** 2
    assert torch.allclose(climbed.latent, up * (1 - 0.1 * VP().sigma(t) ** 2 / variance), atol=1e-12)
    assert bool((law.log_prob(climbed.sample) > law.log_prob(plain)).all())


def test_codes_langevin_keeps_the_marginal():
    """Many small steps from the law of the level stay in it: variance of 1000 states within 4 standard errors."""
    law = Gaussian(torch.zeros(1), 0.1)
    model, t = law.denoiser(VP()), torch.tensor(0.5, dtype=torch.float64)
    x = law.sample(1000, torch.Generator().manual_seed(0))
    found = edit.code(model, x, grid=UniformLambda(40, start=0.5, end=0.02), steps=40, rate=0.02, width=100.0)
    variance = float(VP().alpha(t) ** 2 * 0.1 + VP().sigma(t) ** 2)
    assert abs(float(found.latent.var()) / variance - 1) < 4 * (2 / 1000) ** 0.5


# batches and refusals
# ---------------------------------------------------------------------------------------------------


def calls(flow: Denoiser, model: Denoiser):
    plan = DDPM().plan(VP(), UniformLambda(8, start=0.9, end=0.02))
    same: dict[str, Any] = {"source": A, "target": B}
    return {
        "ddim": lambda x, n: edit.ddim_inversion(flow, x, grid=UniformT(6), **same),
        "rf_solver": lambda x, n: edit.rf_solver(flow, x, grid=UniformT(6), **same),
        "fireflow": lambda x, n: edit.fireflow(flow, x, grid=UniformT(6), **same),
        "flow_edit": lambda x, n: edit.flow_edit(
            flow, x, noise=n, grid=UniformT(6), n_max=5, n_min=1, n_avg=2, **same
        ),
        "exact": lambda x, n: edit.exact_inversion(
            model, OBELM().plan(VP(), Rising(UniformLambda(8, start=0.9, end=0.02))), x, **same
        ),
        "aidi": lambda x, n: edit.aidi(
            flow, FlowEuler().plan(flow.process, UniformT(6)), x, tolerance=1e-12, **same
        ),
        "cycle": lambda x, n: edit.cycle_diffusion(model, plan, x, noise=n, **same),
        "friendly": lambda x, n: edit.edit_friendly(model, plan, x, noise=n, **same),
        "sdedit": lambda x, n: edit.sdedit(model, plan, x, target=B, noise=n),
        "code": lambda x, n: edit.code(model, x, grid=UniformLambda(6, start=0.5, end=0.02), noise=n),
    }


@pytest.mark.parametrize("name", list(calls(ball(), ball())))
def test_a_batch_is_its_samples(name):
    flow, image = plane(4)
    call = calls(flow, MIXTURE.denoiser(VP()))[name]
    whole = call(image, Addressed(3))
    for k in range(4):
        alone = call(image[k : k + 1], Addressed(3, samples=[k]))
        assert torch.allclose(alone.sample[0], whole.sample[k], atol=1e-12)
    with pytest.raises(ValueError, match="sample ids"):
        if name in ("ddim", "rf_solver", "fireflow", "exact", "aidi"):
            raise ValueError("they draw nothing: no sample ids")
        call(image, Addressed(3, samples=[0, 1]))


def test_a_dragged_batch_is_its_samples():
    model, image = grey()
    plan = DDPM().plan(VP(), UniformLambda(8, start=0.6, end=0.02))
    whole = edit.sde_drag(model, plan, image, source=(2, 2), target=(2, 5), radius=1)
    alone = edit.sde_drag(
        model, plan, image[1:], source=(2, 2), target=(2, 5), radius=1, noise=Addressed(0, samples=[1])
    )
    assert torch.allclose(whole.sample[1], alone.sample[0], atol=1e-12)


def test_what_does_not_fit_is_refused_first():
    def network(x, t, cond=None):
        raise AssertionError("called")

    x, flow, vp = torch.zeros(2, 2), Denoiser(network, RectifiedFlow(), FLOW), Denoiser(network, VP(), FLOW)
    same: dict[str, Any] = {"source": None, "target": None}
    rising, grid = torch.tensor([0.1, 0.5, 0.9]), UniformLambda(4, start=0.9, end=0.02)
    ddpm = DDPM().plan(VP(), grid)
    cases = [
        (lambda: edit.flow_edit(vp, x, **same), "flow_edit: got a denoiser on VP"),
        (lambda: edit.rf_solver(vp, x, grid=grid, **same), "rf_solver: got a denoiser on VP"),
        (lambda: edit.fireflow(vp, x, grid=grid, **same), "fireflow: got a denoiser on VP"),
        (lambda: edit.flow_edit(flow, x, grid=UniformT(4), n_max=5, **same), "n_max=5"),
        (lambda: edit.flow_edit(flow, x, n_min=25, **same), "n_min=25"),
        (lambda: edit.flow_edit(flow, x, n_avg=0, **same), "n_avg=0"),
        (lambda: edit.flow_edit(flow, x, grid=rising, n_max=1, **same), "times rising"),
        (lambda: edit.flow_edit(flow, x, noise=torch.zeros(3, 2, 2), **same), "noise: got a tensor"),
        (lambda: edit.ddim_inversion(vp, x, grid=rising, **same), "times rising"),
        (lambda: edit.code(vp, x, grid=rising), "times rising"),
        (lambda: edit.code(vp, x, grid=grid, rate=-1.0), "rate=-1"),
        (lambda: edit.ode_inversion(vp, x, grid=grid, method=DDPM(), **same), "rising grid"),
        (lambda: edit.exact_inversion(vp, OBELM().plan(VP(), grid), x, **same), "expected a rising grid"),
        (lambda: edit.exact_inversion(vp, DDIM().plan(VP(), Rising(rising)), x, **same), "cannot be undone"),
        (lambda: edit.aidi(vp, ddpm, x, **same), "stochastic"),
        (lambda: edit.aidi(vp, DPMSolverPP(2).plan(VP(), grid), x, **same), "of an earlier one"),
        (lambda: edit.aidi(vp, DDIM().plan(VP(), grid), x, iterations=0, **same), "iterations=0"),
        (lambda: edit.cycle_diffusion(vp, DDIM().plan(VP(), grid), x, **same), "draws in step 0"),
        (lambda: edit.sde_drag(vp, ddpm, x, source=(0, 0), target=(1, 1)), r"expected \(B, C, H, W\)"),
        (
            lambda: edit.sde_drag(vp, ddpm, torch.zeros(2, 1, 8, 8), source=(0, 4), target=(4, 4), radius=1),
            "source: got",
        ),
        (
            lambda: edit.sde_drag(vp, ddpm, torch.zeros(2, 1, 8, 8), source=(4, 4), target=(4, 5), stride=0),
            "stride=0",
        ),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()
