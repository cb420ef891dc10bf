"""Parity with diffusers: the plan of a scheduler is its own loop, in value and in gradient."""

import math
import pickle
from typing import Any

import pytest
import torch
from scheduler_cases import FLOAT_SCALES, SD, Case, Net, cases, errors, own_loop

from pullback.adjoint import Checkpoint, Direct, sample
from pullback.solvers import (
    DDIM,
    DDPM,
    IPNDM,
    LMS,
    PLMS,
    PNDM,
    SEEDS,
    Addressed,
    Clamp,
    Denoiser,
    DPMSolver,
    DPMSolverPP,
    DPMSolverPPSingle,
    DPMSolverSingle,
    DynamicThreshold,
    Keywords,
    Mixture,
    OnData,
    Plan,
    PosteriorVariance,
    SDEDPMSolverPP,
    advance,
    moments,
    run,
)  # fmt: skip
from pullback.solvers.model import data_prediction
from pullback.solvers.process import as_time
from pullback.solvers.schedulers import SchedulerPlan, plan_from_scheduler
from pullback.solvers.schedulers.clocks import Arc, NoiseLevelVP
from pullback.solvers.schedulers.known import CONVENTIONS, REFUSED

FLOAT64 = torch.float64
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@pytest.fixture(autouse=True)
def single():
    """PyTorch's own default type: diffusers' UniPC fails under another."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(before)


@pytest.mark.parametrize("case", cases(), ids=str)
def test_the_plan_of_a_scheduler_is_its_own_loop(case, monkeypatch):
    found = errors(case, monkeypatch)
    exact = 1e-6 if case.kind.startswith(FLOAT_SCALES) else case.exact
    assert max(found.exact) < exact
    assert max(found.shipped) < case.shipped
    for part in (
        0,
        1,
    ):  # sample and gradient; 1e-5, or where float32 costs the scheduler more, as much as that
        assert found.single[part] < max(1e-5, 2 * found.theirs[part])
        assert found.ours[part] < max(1e-5, 2 * found.theirs[part])


def test_every_scheduler_of_diffusers_is_known_or_refused():
    import diffusers

    names = {name for name in dir(diffusers.schedulers) if name.endswith("Scheduler")}
    names |= {"KarrasVeScheduler", "ScoreSdeVpScheduler"}
    assert names == CONVENTIONS.keys() | REFUSED.keys() and not CONVENTIONS.keys() & REFUSED.keys()
    assert CONVENTIONS.keys() == {f"{case.kind}Scheduler" for case in cases()}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_is_no_plan_is_refused_by_name(name):
    with pytest.raises(ValueError, match=f"got {name}, .*, expected"):
        plan_from_scheduler(type(name, (), {})(), 4)


def test_what_does_not_fit_is_said():
    ddim = Case("DDIM", SD).scheduler()
    with pytest.raises(TypeError, match=r"got \['s_churn'\], expected arguments of DDIMScheduler"):
        plan_from_scheduler(ddim, 4, s_churn=1.0)
    with pytest.raises(TypeError, match=r"got \['mu'\], expected arguments"):
        plan_from_scheduler(ddim, 4, mu=1.0)
    attempts: tuple[tuple[dict[str, Any], str], ...] = (
        ({}, "num_inference_steps: got none"),
        ({"num_inference_steps": 0}, "num_inference_steps: got .*0, expected a whole number >= 1"),
        ({"num_inference_steps": 4, "begin": 4}, "begin: got 4, expected less than the 4 turns"),
        ({"num_inference_steps": 4, "mu": math.nan}, "mu: got nan"),
    )
    for wrong, words in attempts:
        with pytest.raises(ValueError, match=words):
            plan_from_scheduler(ddim, **wrong)
    with pytest.raises(TypeError, match="expected a diffusers scheduler; pass pipe.scheduler"):
        plan_from_scheduler(torch.zeros(3), 4)
    with pytest.raises(ValueError, match="got MineScheduler, expected one of"):
        plan_from_scheduler(type("MineScheduler", (), {"set_timesteps": lambda self, n: None})(), 4)
    with pytest.raises(ValueError, match="corrected=True for LCMScheduler, expected a scheduler of a method"):
        plan_from_scheduler(Case("LCM", SD).scheduler(), 4, corrected=True)


@pytest.mark.parametrize(
    "case",
    [
        Case("DDPM", {"variance_type": "fixed_large_log", "clip_sample": False}),  # the root of a logarithm
        Case("UniPCMultistep", {**SD, "solver_type": "bh1"}),  # B(h) = -h, infinite at sigma = 0
        Case("DPMSolverMultistep", {**SD, "use_karras_sigmas": True, "solver_order": 3,
                                    "final_sigmas_type": "sigma_min"}, 16),  # the last sigma twice
    ],
    ids=str,
)  # fmt: skip
def test_a_loop_that_makes_nan_is_refused(case, monkeypatch):
    with pytest.raises(ValueError, match="not finite in step .* of its own loop"):
        plan_from_scheduler(case.scheduler(), case.steps)
    x = torch.ones(1, 4, 2, 2, dtype=FLOAT64)
    assert own_loop(case, Net(), x, torch.randn(20, *x.shape, dtype=FLOAT64), monkeypatch).isnan().all()


class Told(torch.nn.Module):
    """Remembers the labels and inputs it was called with."""

    def __init__(self):
        super().__init__()
        self.labels, self.inputs = [], []

    def forward(self, x, t, scale=1.0):
        self.labels.append(t[0])
        self.inputs.append(x)
        return torch.tanh(x) * scale


@pytest.mark.parametrize(
    "case",
    [
        Case("DDIM", SD),
        Case("KDPM2AncestralDiscrete", {**SD, "use_karras_sigmas": True}, 5),  # two labels at one time
        Case("DPMSolverMultistep", {**SD, "use_karras_sigmas": True}, 12),
        Case("FlowMatchEulerDiscrete", {"shift": 3.0}),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, FLOAT64])
def test_the_network_is_told_the_schedulers_own_labels(case, dtype):
    s, network = case.scheduler(), Told()
    found = plan_from_scheduler(s, case.steps)
    s.set_timesteps(case.steps)
    noise = Addressed(0) if found.plan.stochastic else None
    run(found.denoiser(network), found.plan, torch.ones(2, 4, 2, 2, dtype=dtype), noise=noise)
    told = torch.stack(network.labels)
    assert told.is_floating_point() == s.timesteps.is_floating_point()
    assert torch.equal(told.double(), s.timesteps.to(dtype).double())


def test_between_the_calls_labels_follow_the_training_steps():
    found = plan_from_scheduler(Case("DPMSolverMultistep", SD).scheduler(), 8)
    table = Case("DPMSolverMultistep", SD).scheduler().alphas_cumprod.double()
    level = ((1 - table) / table).sqrt()[[3, 333, 777]]
    assert found.label(level, found.process).tolist() == [3, 333, 777]


def test_a_found_plan_prints_compares_and_pickles():
    case = Case("UniPCMultistep", SD)
    first, second = (plan_from_scheduler(case.scheduler(), 6) for _ in range(2))
    assert first == second and first != plan_from_scheduler(case.scheduler(), 7)
    again = pickle.loads(pickle.dumps(first))
    assert again == first and hash(again.label) == hash(first.label)
    assert "UniPCMultistepScheduler, as shipped: 6 steps, 6 network calls" in str(first.plan)
    assert isinstance(first, SchedulerPlan) and isinstance(first.plan, Plan)


def test_turns_left_out_at_the_start_are_those_of_image_to_image():
    s = Case("DPMSolverMultistep", SD).scheduler()
    s.set_timesteps(10)
    s.set_begin_index(4)
    network, x = Told(), torch.linspace(-1, 1, 16, dtype=FLOAT64).reshape(1, 4, 2, 2)
    theirs = x
    for t in s.timesteps[4:]:
        theirs = s.step(network(theirs, t[None]), t, theirs).prev_sample
    found = plan_from_scheduler(Case("DPMSolverMultistep", SD).scheduler(), 10, begin=4)
    assert found.plan.nfe == 6
    ours = run(found.denoiser(network), found.plan, x)
    assert (ours - theirs).abs().max() < 1e-6


def test_conditioning_scaling_and_strategies_go_through():
    found = plan_from_scheduler(
        Case("EulerDiscrete", {**SD, "prediction_type": "v_prediction"}).scheduler(), 6
    )
    x, scale = torch.randn(2, 4, 2, 2, dtype=FLOAT64), torch.tensor(0.7, dtype=FLOAT64, requires_grad=True)
    grads = []
    for strategy in (Direct(), Checkpoint()):
        denoiser = found.denoiser(Told(), call=Keywords())
        out = sample(denoiser, found.plan, x * found.scale, cond={"scale": scale}, gradient=strategy)
        grads.append(torch.autograd.grad(out.square().sum(), scale)[0])
    assert torch.allclose(*grads, rtol=1e-12)


@pytest.mark.parametrize(
    "case, mean, variance",
    [
        (Case("FlowMatchHeunDiscrete"), 0.300, 0.250),
        (Case("FlowMatchEulerDiscrete", {"stochastic_sampling": True}), 0.300, 0.119),  # half of it lost
        (Case("FlowMatchHeunDiscrete", options={"s_churn": 10.0}), 0.580, 0.508),  # another law altogether
        (Case("EDMEuler", options={"s_churn": 10.0}), 0.287, 0.225),
    ],
    ids=str,
)
def test_what_a_loop_makes_of_a_gaussian_can_be_read_off(case, mean, variance):
    """Of data N(0.3, 0.25), in 100 steps."""
    found = plan_from_scheduler(case.scheduler(), 100, **case.options)
    start = as_time(found.plan.times[0])
    alpha, sigma = float(found.process.alpha(start)), float(found.process.sigma(start))
    law = moments(found.plan, 0.3, 0.25, alpha * 0.3, alpha**2 * 0.25 + sigma**2)
    assert [round(float(each), 3) for each in law[:2]] == [mean, variance]


KARRAS = {**SD, "use_karras_sigmas": True}
FINITE = {**SD, "algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}
ORDERS = [  # scheduler, order as shipped, order corrected, at most what share of the shipped error at 80 steps
    (Case("DPMSolverMultistep", {**SD, "use_lu_lambdas": True, "solver_order": 3}), 2, 3, 0.12),
    (Case("DPMSolverMultistep", {**KARRAS, "solver_order": 3}), 2, 3, 0.4),
    (
        Case("SASolver", {**KARRAS, "predictor_order": 3, "corrector_order": 4, "tau_func": lambda t: 0}),
        None,
        4,
        0.02,
    ),
    (Case("EDMDPMSolverMultistep", {"solver_order": 3}), None, 3, 1.0),
    (Case("DPMSolverSinglestep", {**KARRAS, "solver_order": 3}), 3, 3, 0.6),
    (Case("DEISMultistep", {**KARRAS, "solver_order": 3}), None, 3, 0.1),
    (Case("LMSDiscrete", KARRAS), 4, 4, 1.01),
]


@pytest.mark.slow
@pytest.mark.parametrize("case, shipped, true, share", ORDERS, ids=lambda each: str(each)[:60])
def test_corrected_has_the_order_of_the_name(case, shipped, true, share):
    """Down to the last positive noise level, on a mixture in closed form. None: the shipped error grows, or hardly
    falls, from 40 to 80 steps, since its weights are differences of float32 numbers.
    """
    slopes, last = {}, {}
    for corrected in (False, True):
        at = [_error(plan_from_scheduler(case.scheduler(), n, corrected=corrected)) for n in (40, 80)]
        slopes[corrected], last[corrected] = math.log2(at[0] / at[1]), at[1]
    assert slopes[True] > true - 0.3
    assert abs(slopes[False] - shipped) < 0.4 if shipped else slopes[False] < true - 1
    assert last[True] < share * last[False]


@pytest.mark.parametrize(
    "case, shipped, true",
    [
        (Case("DPMSolverSinglestep", {**KARRAS, "algorithm_type": "sde-dpmsolver++"}), 1, 2),
        (Case("KDPM2AncestralDiscrete", KARRAS), 2, 2),
        (Case("EulerAncestralDiscrete", SD), 1, 1),
    ],
    ids=str,
)
def test_corrected_has_the_weak_order_of_the_name(case, shipped, true):
    """Of data N(0.3, 0.25): the variance at the end, against that of 240 steps."""
    for corrected, order in ((False, shipped), (True, true)):
        last = _variance(case, 240, corrected)
        slope = math.log2(
            abs(_variance(case, 30, corrected) - last) / abs(_variance(case, 60, corrected) - last)
        )
        assert abs(slope - order) < 0.5, (corrected, slope)


def _variance(case: Case, steps: int, corrected: bool) -> float:
    found = plan_from_scheduler(case.scheduler(), steps, corrected=corrected)
    start = as_time(found.plan.times[0])
    alpha, sigma = float(found.process.alpha(start)), float(found.process.sigma(start))
    return float(moments(found.plan, 0.3, 0.25, alpha * 0.3, alpha**2 * 0.25 + sigma**2)[1])


LIMITED = {"thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 3.0}
LIMIT = DynamicThreshold(0.9, 3.0)


@pytest.mark.parametrize(
    "case, method",
    [
        (Case("DDPM", {"variance_type": "fixed_large", "clip_sample": False}), DDPM(PosteriorVariance.LARGE)),
        (Case("DDIM", {"clip_sample": False}, options={"eta": 0.6}), DDIM(0.6)),
        (Case("DDIM", {"clip_sample": True, "clip_sample_range": 1.5}), OnData(DDIM(), Clamp(-1.5, 1.5))),
        (
            Case("DPMSolverMultistep", {**LIMITED, "solver_type": "heun"}),
            OnData(DPMSolverPP(2, exact=True), LIMIT),
        ),
        (Case("DPMSolverSinglestep", {**LIMITED, "solver_order": 2}), OnData(DPMSolverPPSingle(2), LIMIT)),
        (
            Case("DPMSolverMultistep", {**SD, "algorithm_type": "sde-dpmsolver++", "solver_type": "heun"}),
            SDEDPMSolverPP(2, exact=True),
        ),
        (Case("DPMSolverMultistep", {**FINITE, "solver_order": 3}), DPMSolver(3)),
        (Case("DPMSolverMultistep", {**FINITE, "solver_type": "heun"}), DPMSolver(2, exact=True)),
        (Case("DPMSolverSDE", SD), SEEDS(2)),
        (Case("DPMSolverSinglestep", {**FINITE, "solver_order": 3}), DPMSolverSingle(3)),
        (Case("IPNDM"), IPNDM()),
        (Case("LMSDiscrete", SD, options={"order": 3}), LMS(3)),
        (Case("PNDM", SD), PNDM()),
        (Case("PNDM", {**SD, "skip_prk_steps": True}), PLMS()),
    ],
    ids=str,
)
def test_corrected_is_the_method_of_the_name(case, method):
    """With what its configuration and the call say besides: clipping, thresholding, eta."""
    found = plan_from_scheduler(case.scheduler(), 9, corrected=True, **case.options)
    assert found.plan == method.along(found.process, as_time(found.plan.times))


def _error(found: SchedulerPlan) -> float:
    plan = found.plan.split(found.plan.steps - 1)[0]
    means = torch.tensor([[0.4, -0.7], [-0.5, 0.3]], dtype=FLOAT64)
    spreads = torch.tensor([0.3, 0.4], dtype=FLOAT64)
    denoiser: Denoiser = Mixture.isotropic(torch.ones(2, dtype=FLOAT64) / 2, means, spreads).denoiser(
        found.process
    )
    draw = torch.Generator().manual_seed(3)
    x = torch.randn(8, 2, generator=draw, dtype=FLOAT64) * found.scale
    ends = as_time(plan.times)[[0, -1]]  # type: ignore[arg-type]
    low, high = found.process.lam(ends).tolist()
    fine = found.process.time(torch.linspace(low, high, 801, dtype=FLOAT64))
    fine[0], fine[-1] = ends
    true = run(denoiser, DPMSolverPP(3).along(found.process, fine), x)
    noise = Addressed(0) if found.plan.stochastic else None
    return float((advance(denoiser, plan, x, noise=noise)["x"] - true).abs().max())


@pytest.mark.parametrize("process", [NoiseLevelVP(), Arc(), Arc(math.pi / 2, 0.5)], ids=str)
def test_the_clocks_are_processes(process):
    t = torch.linspace(1e-3, 1.0, 50, dtype=FLOAT64) * min(process.t_max, 20.0)
    assert torch.allclose(process.time(process.lam(t)), t, rtol=1e-12)
    alpha, sigma = process.alpha(t), process.sigma(t)
    size = getattr(process, "data", 1.0)
    assert torch.allclose(alpha**2 + (sigma / size) ** 2, torch.ones_like(t), rtol=1e-12)
    assert float(process.sigma(0.0)) == 0.0 and float(process.alpha(0.0)) == 1.0
    if isinstance(process, Arc):
        assert float(process.alpha(process.t_max)) == 0.0


@pytest.mark.parametrize("kind", ["DDIM", "EulerDiscrete", "FlowMatchEulerDiscrete", "EDMEuler"])
def test_the_prediction_is_that_of_the_process(kind):
    """The data prediction that the scheduler makes of the network's answer is the library's conversion of it."""
    case = Case(
        kind, {**SD, "clip_sample": False} if kind == "DDIM" else SD if kind == "EulerDiscrete" else {}
    )
    s, network = case.scheduler(), Net()
    found = plan_from_scheduler(case.scheduler(), 6)
    s.set_timesteps(6)
    x = torch.randn(2, 4, 2, 2, dtype=FLOAT64) * found.scale
    shown = s.scale_model_input(x, s.timesteps[0]) if hasattr(s, "scale_model_input") else x
    out = s.step(network(shown, s.timesteps[0]), s.timesteps[0], x)
    data = data_prediction(found.denoiser(network), x, found.plan.times[0])
    if hasattr(out, "pred_original_sample"):
        assert (data - out.pred_original_sample).abs().max() < 1e-5 * data.abs().max()
    times = as_time(found.plan.times[:2])  # type: ignore[arg-type]
    alpha, sigma = found.process.alpha(times), found.process.sigma(times)
    end = alpha[1] * data + sigma[1] * (x - alpha[0] * data) / sigma[0]
    assert (end - out.prev_sample).abs().max() < 1e-5 * x.abs().max()


def test_the_network_of_ipndm_predicts_v():
    """Its loop takes a Gaussian N(0.3, 0.25) from one noise level to another; as a noise prediction it would not."""
    plan = plan_from_scheduler(Case("IPNDM").scheduler(), 60, begin=6).plan.split(48)[0]
    ends = as_time(plan.times)[[0, -1]]  # type: ignore[arg-type]
    alpha, sigma = plan.process.alpha(ends), plan.process.sigma(ends)
    (m0, m1), (v0, v1) = (0.3 * alpha).tolist(), (0.25 * alpha**2 + sigma**2).tolist()
    mean, variance = moments(plan, 0.3, 0.25, m0, v0)[:2]
    assert abs(mean - m1) < 2e-4 and abs(variance - v1) < 2e-4


def test_a_history_that_grows_does_not_fill_the_recorder():
    from diffusers.schedulers.scheduling_ipndm import IPNDMScheduler

    plan = plan_from_scheduler(IPNDMScheduler(), 200).plan
    assert plan.steps == 200 and plan.held <= 8
