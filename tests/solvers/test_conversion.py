"""Processes, predictions and grids: round trips over generated processes, times, shapes and dtypes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pullback.solvers import (
    DATA,
    DDIM,
    EDM,
    FLOW,
    NOISE,
    SCORE,
    VE,
    VP,
    ClassifierFree,
    Clock,
    CosineVP,
    Denoiser,
    DiffusionBridge,
    DiscreteVP,
    GivenTimes,
    Interpolant,
    Karras,
    Leading,
    Linspace,
    MeanReverting,
    PhaseSpaceLangevin,
    Quadratic,
    RectifiedFlow,
    Shifted,
    SubVP,
    Trailing,
    UniformLambda,
    UniformT,
    UserPair,
    V,
    convert,
)
from pullback.solvers.prediction import PREDICTIONS, conversion

BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
TABLE = DiscreteVP(torch.cumprod(1 - BETAS, 0))
RESTORATION = MeanReverting.ir_sde(0.2)
PROCESSES = [
    VP(),
    VP(0.2, 12.0),
    CosineVP(),
    SubVP(),
    VE(),
    EDM(),
    RectifiedFlow(),
    TABLE,
    UserPair(lambda t: torch.cos(t), lambda t: torch.sin(t), 0.0, 1.5),
    MeanReverting(0.3),
    RESTORATION,
    DiffusionBridge(),
    DiffusionBridge(EDM(t_max=5.0)),
    DiffusionBridge(RectifiedFlow(), 0.9),
]
CLOCKS = [*PROCESSES, PhaseSpaceLangevin(t_min=0.02), Clock(0.0, 2.0)]  # and those without conversions
processes, parts = st.sampled_from(PROCESSES), st.floats(0.02, 0.98)


def inside(process, part):
    return process.t_min + part * (process.t_max - process.t_min)


@given(st.sampled_from(CLOCKS), parts)
def test_lambda_and_its_inverse(process, part):
    t = inside(process, part)
    assert float(process.time(process.lam(t))) == pytest.approx(t, rel=1e-9, abs=1e-9)
    assert float(process.alpha(t).log() - process.sigma(t).log()) == pytest.approx(
        float(process.lam(t)), abs=1e-9
    )


@given(st.sampled_from(CLOCKS), parts)
def test_drift_and_diffusion(process, part):
    """g^2 = -2 sigma^2 dlambda/dt, by finite differences."""
    t, h = inside(process, part), 1e-6 * (process.t_max - process.t_min)
    if process in (TABLE, RESTORATION):  # not at a node
        t = float(int(t)) + 0.4
    slope = float(process.lam(t + h) - process.lam(t - h)) / (2 * h)
    assert float(process.g2(t)) == pytest.approx(-2 * float(process.sigma(t)) ** 2 * slope, rel=1e-5)


@given(
    processes,
    parts,
    st.sampled_from(PREDICTIONS),
    st.sampled_from(PREDICTIONS),
    st.lists(st.integers(1, 3), min_size=1, max_size=3),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_conversions_round_trip_and_agree_with_their_definition(process, part, have, want, event, dtype):
    x0, eps = (torch.randn(2, *event, dtype=dtype) for _ in range(2))
    t = torch.tensor([inside(process, part), inside(process, 0.5)])
    column = t.reshape(-1, *[1] * len(event))
    x = (process.alpha(column) * x0 + process.sigma(column) * eps).to(dtype)

    def value(kind):
        a, b = kind.row(process, column)
        return (a * x0 + b * eps).to(dtype)

    there = convert(value(have), x, have, want, process, t)
    scale = max(float(value(want).abs().max()), float(value(have).abs().max()), float(x.abs().max()), 1.0)
    condition = max(float(c.abs().max()) for c in (*conversion(have, want, process, t), torch.ones(1)))
    tolerance = (1e-4 if dtype == torch.float32 else 1e-10) * scale * condition
    assert torch.allclose(there, value(want), rtol=0, atol=tolerance) and there.dtype == dtype


@pytest.mark.parametrize("process", [VP(), CosineVP(), EDM(), RectifiedFlow()], ids=str)
def test_predictions_are_what_they_are_called(process):
    """Each from its own definition, at one x_t: a round trip would not notice another quantity."""
    t, h = inside(process, 0.4), 1e-5 * (process.t_max - process.t_min)
    x0, eps = torch.randn(2, 3), torch.randn(2, 3)

    def state(t):
        return process.alpha(t) * x0 + process.sigma(t) * eps

    x = state(t).requires_grad_()
    law = torch.distributions.Normal(process.alpha(t) * x0, process.sigma(t))
    (score,) = torch.autograd.grad(law.log_prob(x).sum(), x)
    wanted = {
        NOISE: eps,
        DATA: x0,
        V: process.alpha(t) * eps - process.sigma(t) * x0,
        FLOW: (state(t + h) - state(t - h)) / (2 * h),
        SCORE: score,
    }
    assert wanted.keys() == set(PREDICTIONS)
    for kind, value in wanted.items():
        assert torch.allclose(convert(eps, x.detach(), NOISE, kind, process, t), value, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("process", [CosineVP(), RectifiedFlow()], ids=str)
def test_noise_says_nothing_of_data_at_alpha_zero(process):
    with pytest.raises(ValueError, match="does not determine"):
        conversion(NOISE, PREDICTIONS[1], process, 1.0)
    assert float(process.alpha(1.0)) == 0.0 and float(process.lam(1.0)) == float("-inf")
    assert conversion(FLOW, PREDICTIONS[1], RectifiedFlow(), 1.0)[0] == 1


@given(
    st.sampled_from([VP(), VE(), EDM(), RectifiedFlow(), CosineVP(), SubVP()]),
    st.integers(1, 40),
    st.booleans(),
)
def test_grids_are_monotone_with_exact_ends(process, n, rising):
    start, end = inside(process, 0.95), inside(process, 0.03)
    if rising:
        start, end = end, start
    for kind in (UniformT, UniformLambda, Karras, Quadratic, Shifted):
        t = kind(n, start=start, end=end).times(process)
        assert t.dtype == torch.float64 and len(t) == n + 1
        assert bool(((t.diff() > 0) == rising).all())
        if kind is not Shifted:
            assert t[0].item() == start and t[-1].item() == end
    assert torch.equal(GivenTimes([0.5, 0.2]).times(process), torch.tensor([0.5, 0.2]))


@pytest.mark.parametrize("process", [VP(), EDM(), TABLE], ids=lambda p: type(p).__name__)
def test_a_grid_may_leave_the_process_by_round_off_only(process):
    """By a 10^9th of the process's own range, whatever that is."""
    low, high = process.t_min, process.t_max
    for part in (1e-10, 1e-8):
        slack = part * (high - low)
        for ends in ([high + slack, low], [high, low - slack]):
            if part < 1e-9:
                assert DDIM().plan(process, ends).times == tuple(ends)
            else:
                with pytest.raises(ValueError, match="expected inside"):
                    DDIM().plan(process, ends)


@pytest.mark.parametrize(
    ("times", "words"),
    [
        ([1.0, 0.5, 0.6, 0.1], "0.5 then 0.6 at step 1"),
        ([0.1, 0.5, 0.5, 0.9], "0.5 then 0.5 at step 1"),
        ([0.9, 0.5, float("nan"), 0.1], "0.5 then nan at step 1"),
        ([float("inf"), 0.5, 0.1], "inf then 0.5 at step 0"),
    ],
)
def test_the_step_that_spoils_a_grid_is_named(times, words):
    with pytest.raises(ValueError, match=f"grid: got times {words}, expected strictly"):
        DDIM().plan(VP(), times)


def test_discrete_labels_are_those_of_the_field():
    assert Trailing(4).times(TABLE).tolist() == [999, 749, 499, 249, -1]
    assert Leading(4).times(TABLE).tolist() == [751, 501, 251, 1, -1]
    assert Linspace(4).times(TABLE).tolist() == [999, 666, 333, 0, -1]
    assert float(TABLE.sigma(-1.0)) == 0.0 and float(TABLE.alpha(-1.0)) == 1.0
    assert float(TABLE.alpha(10.0)) ** 2 == pytest.approx(float(torch.cumprod(1 - BETAS, 0)[10]))


def test_a_guidance_scale_for_each_sample_goes_along_the_batch():
    """A batch of as many samples as the state is wide: by itself (B,) would broadcast over the width."""
    base = Denoiser(lambda x, t, cond: x * cond, VP(), DATA)
    x, scale = torch.randn(3, 3), torch.tensor([0.0, 1.0, 4.0], requires_grad=True)
    model, t = ClassifierFree(base, scale, null=torch.tensor(0.5)), torch.full((3,), 0.5)
    out = model(x, t, torch.tensor(2.0))
    each = [ClassifierFree(base, float(s), null=torch.tensor(0.5))(x[b : b + 1], t[:1], torch.tensor(2.0))
            for b, s in enumerate(scale)]  # fmt: skip
    assert torch.equal(out, torch.cat(each))
    (got,) = torch.autograd.grad(out.sum(), scale)
    assert torch.allclose(got, 1.5 * x.sum(1))


def test_a_two_sided_interpolant_has_no_noise_level():
    """No prediction of x_t = alpha x_0 + beta x_1 + gamma z follows from another, and nothing sees a sigma."""
    process = Interpolant(lambda t: 1 - t, lambda t: t, lambda t: t * (1 - t))
    assert conversion(FLOW, FLOW, process, 0.3) == (0, 1)
    for have, want in ((FLOW, DATA), (DATA, NOISE), (NOISE, SCORE), (SCORE, FLOW)):
        with pytest.raises(ValueError, match="asked for sigma"):
            conversion(have, want, process, 0.3)
    with pytest.raises(ValueError, match="asked for sigma"):
        process.g2(0.3)
    assert process.lam(0.3).isnan() and float(process.alpha(0.3)) == 0.7 and float(process.d_alpha(0.3)) == -1


def test_slopes_of_a_table_at_its_own_nodes():
    """At a node the slope of the cell that begins there, as just behind it; also beside an end at alpha = 0."""
    for table in (torch.tensor([0.9, 0.5, 0.2, 0.05]), torch.tensor([0.9, 0.5, 0.2, 0.0])):
        process = DiscreteVP(table.to(torch.float64))
        t = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
        for value, slope in ((process.alpha, process.d_alpha), (process.sigma, process.d_sigma)):
            assert torch.allclose(slope(t)[1:], slope(t + 1e-9)[1:], rtol=1e-6)
            step = 1e-6
            assert torch.allclose(slope(t)[1:], (value(t + step) - value(t))[1:] / step, rtol=1e-4)
        assert torch.equal(process.log_alpha(t), torch.cat([torch.zeros(1), table[:2].double().log() / 2]))
        assert float(process.log_alpha(3.0)) == float(table.double().log()[-1] / 2)
