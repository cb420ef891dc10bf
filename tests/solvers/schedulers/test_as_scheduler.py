"""Our samplers where a pipeline expects its scheduler: its loop is `run` of the plan around the same network."""

import copy
import importlib
import inspect
import math
import pickle
from dataclasses import replace
from typing import Any

import pytest
import torch
from scheduler_cases import SD, Case, Net, cases, slots_drawn
from torch import Tensor

from pullback.solvers import (
    BDIA,
    DDIM,
    DDPM,
    DEIS,
    EDICT,
    ERSDE,
    GHVB,
    KDPM2,
    PLMS,
    PNDM,
    SEEDS,
    Addressed,
    Ancestral,
    Clamp,
    DPMSolverPP,
    DPMSolverPPSingle,
    EDMHeun,
    Ends,
    FlowEuler,
    FlowHeun,
    FlowSDE,
    GivenTimes,
    Karras,
    LangevinCorrected,
    Method,
    OnData,
    Plan,
    PosteriorVariance,
    Restart,
    SASolver,
    SDEDPMSolverPP,
    UniPC,
    run,
)  # fmt: skip
from pullback.solvers.schedulers import as_scheduler, plan_from_scheduler
from pullback.solvers.schedulers.known import CONVENTIONS
from pullback.solvers.schedulers.pipeline_noise import PipelineNoise

FLOAT64 = torch.float64
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
PLAIN = {**SD, "clip_sample": False}
KARRAS = {**SD, "use_karras_sigmas": True}
TRAILING_V = {**SD, "prediction_type": "v_prediction", "timestep_spacing": "trailing"}
FLOW_SIGMAS = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}


@pytest.fixture(autouse=True)
def single():
    """PyTorch's own default type: diffusers' UniPC fails under another."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(before)


class Smooth(Net):
    """As `Net`; labels go through float32, in which schedulers hold them."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return super().forward(x, t.float())


NETWORK = Smooth().requires_grad_(False)
X = torch.randn(2, 4, 2, 2, generator=torch.Generator().manual_seed(0), dtype=FLOAT64)


def loop(s: Any, x: Tensor, steps: int, *, seed: int = 0, network: Any = NETWORK, **given: Any) -> Tensor:
    """A text-to-image pipeline's loop around unit noise x."""
    s.set_timesteps(steps, **given)
    options = {"generator": torch.Generator().manual_seed(seed)}
    options = {name: each for name, each in options.items() if name in inspect.signature(s.step).parameters}
    return turns(s, x * s.init_noise_sigma, s.timesteps, network, **options)


def turns(s: Any, x: Tensor, timesteps: Tensor, network: Any = NETWORK, **options: Any) -> Tensor:
    for t in timesteps:
        shown = s.scale_model_input(x, t) if hasattr(s, "scale_model_input") else x
        x = s.step(network(shown, t.expand(len(x))), t, x, **options, return_dict=False)[0]
    return x


def planned(method: Method, s: Any, steps: int, **given: Any) -> Plan:
    """The method on the nodes that the scheduler itself makes."""
    s = copy.deepcopy(s)
    s.set_timesteps(steps, **given)
    found = plan_from_scheduler(s, steps, **given)
    times = CONVENTIONS[type(s).__name__].nodes(s)
    return method.along(found.process, [t for k, t in enumerate(times) if not k or t != times[k - 1]])


def gap(left: Tensor, right: Tensor) -> float:
    return float((left - right).abs().max() / right.abs().max())


METHODS: list[Method] = [
    DDIM(), DDIM(0.7), DEIS(4), UniPC(3), DPMSolverPP(3), DPMSolverPPSingle(3), EDMHeun(), GHVB(1.8), ERSDE(3),
    SEEDS(2), SASolver(2, 3, tau=0.5), PNDM(), BDIA(), EDICT(), LangevinCorrected(DDIM()), Restart(EDMHeun(), 0.1, 2.0),
]  # fmt: skip
FEW: list[Method] = [DDIM(0.7), UniPC(3), EDMHeun(), SEEDS(2)]
FLOWS: list[Method] = [FlowEuler(), FlowHeun(), FlowSDE(0.5), DPMSolverPP(2), UniPC(3), SEEDS(2)]
PROCESSES = [
    (Case("DDIM", {**PLAIN, "steps_offset": 1}), METHODS),
    (Case("DDIM", {**TRAILING_V, "clip_sample": False, "set_alpha_to_one": False}), FEW),
    (Case("PNDM", {**SD, "skip_prk_steps": True}), FEW),
    (Case("DPMSolverMultistep", KARRAS), METHODS),
    (Case("EulerDiscrete", SD), METHODS),
    (Case("EulerDiscrete", TRAILING_V), FEW),
    (Case("HeunDiscrete", {**SD, "use_karras_sigmas": True}), FEW),
    (Case("EDMEuler"), FEW),
    (Case("UniPCMultistep", FLOW_SIGMAS), FLOWS),
    (Case("FlowMatchEulerDiscrete", {"use_dynamic_shifting": True}, given={"mu": 0.8}), FLOWS),
]


@pytest.mark.parametrize("case, methods", PROCESSES, ids=str)
def test_the_loop_of_a_pipeline_is_the_plan(case, methods):
    """Float64 1e-10, float32 1e-5, with the noise of the pipeline's generator."""
    found = plan_from_scheduler(case.scheduler(), 5, **case.given)
    for method in methods:
        plan, s = planned(method, case.scheduler(), 5, **case.given), as_scheduler(method, case.scheduler())
        for dtype, near in ((FLOAT64, 1e-10), (torch.float32, 1e-5)):
            x = X.to(dtype)
            noise = slots_drawn(plan, x, 3) if plan.slots else None
            true = run(found.denoiser(NETWORK), plan, x * found.scale, noise=noise)
            assert gap(loop(s, x, 5, seed=3, **case.given), true) < near, (method, dtype)
            assert len(s.timesteps) == plan.nfe == s.step_index, method


def test_every_scheduler_that_steps_a_state_can_be_replaced():
    seen, refused = {}, set()
    for case in cases():
        if case.kind in seen or case.learned or not case.steps:
            continue
        try:
            s = as_scheduler(DDIM(), case.scheduler())
            seen[case.kind] = loop(s, X, case.steps, **case.given), s.found()
        except ValueError as error:
            refused.add(case.kind)
            assert "as_scheduler: got" in str(error)
    assert refused == {"CogVideoXDPM", "DDPMWuerstchen", "SCM"}
    assert len(seen) + len(refused) == len(CONVENTIONS) - 1  # LTX's is given sigmas
    for kind, (ours, found) in seen.items():
        assert gap(ours, run(found.denoiser(NETWORK), found.plan, X * found.scale)) < 1e-10, kind


SAME = [
    (Case("DDIM", PLAIN), DDIM(), {}),
    (Case("DDIM", PLAIN), DDIM(0.6), {"eta": 0.6}),
    (Case("DDPM", PLAIN), DDPM(), {}),
    (Case("PNDM", {**SD, "skip_prk_steps": True, "steps_offset": 1}), PLMS(), {}),
    (Case("DPMSolverMultistep", KARRAS), DPMSolverPP(2), {}),
    (Case("DPMSolverMultistep", {**KARRAS, "algorithm_type": "sde-dpmsolver++"}), SDEDPMSolverPP(2), {}),
    (Case("EulerDiscrete", SD), DDIM(), {}),
    (Case("EulerAncestralDiscrete", SD), Ancestral(DDIM()), {}),
    (Case("HeunDiscrete", SD), EDMHeun(), {}),
    (Case("KDPM2Discrete", SD), KDPM2(), {}),
    (Case("FlowMatchEulerDiscrete", {"shift": 3.0}), FlowEuler(), {}),
    (Case("FlowMatchHeunDiscrete", {"shift": 3.0}), Ends(FlowHeun(), tail=(FlowEuler(),)), {}),
]


@pytest.mark.parametrize("case, method, options", SAME, ids=str)
def test_the_same_method_gives_what_diffusers_does(case, method, options):
    """Noise and all: both draw from one generator."""
    theirs = case.scheduler()
    theirs.set_timesteps(12)
    drawn = {"generator": torch.Generator().manual_seed(5)}
    drawn = {name: each for name, each in drawn.items() if name in inspect.signature(theirs.step).parameters}
    scale = getattr(theirs, "init_noise_sigma", 1.0)
    true = turns(theirs, X.float() * scale, theirs.timesteps, **drawn, **options)
    s = as_scheduler(method, case.scheduler())
    assert gap(loop(s, X.float(), 12, seed=5), true) < 1e-5
    assert torch.equal(s.timesteps, theirs.timesteps) and s.timesteps.dtype == theirs.timesteps.dtype
    assert s.init_noise_sigma == scale
    if hasattr(theirs, "sigmas") and s.order == 1:
        assert torch.allclose(s.sigmas, theirs.sigmas)


def test_noise_is_the_generators_or_what_is_given():
    case, method = Case("EulerDiscrete", SD), SEEDS(2)
    plan, found = planned(method, case.scheduler(), 4), plan_from_scheduler(case.scheduler(), 4)
    s = as_scheduler(method, case.scheduler(), noise=Addressed(7))
    true = run(found.denoiser(NETWORK), plan, X * found.scale, noise=Addressed(7))
    assert gap(loop(s, X, 4, seed=1), true) < 1e-10 and gap(loop(s, X, 4, seed=2), true) < 1e-10
    # of a list each sample has its own, whatever its batch
    s = as_scheduler(method, case.scheduler())
    s.set_timesteps(4)
    together = turns(s, X, s.timesteps, generator=[torch.Generator().manual_seed(k) for k in (1, 2)])
    for k in (1, 2):
        s.set_timesteps(4)
        alone = turns(s, X[k - 1 : k], s.timesteps, generator=[torch.Generator().manual_seed(k)])
        assert gap(together[k - 1 : k], alone) < 1e-12
    s.set_timesteps(4)
    with pytest.raises(ValueError, match="generator: got 3, expected one, or one for each of 2 samples"):
        turns(s, X, s.timesteps, generator=[torch.Generator()] * 3)
    s = as_scheduler(method, case.scheduler(), noise=torch.zeros(1, *X.shape))
    with pytest.raises(ValueError, match="noise: got a tensor of shape"):
        loop(s, X, 4)


@pytest.mark.parametrize(
    "method",
    [DDIM(), UniPC(3), DPMSolverPP(3), EDMHeun(), SEEDS(2), EDICT(), LangevinCorrected(DDIM())],
    ids=str,
)
@pytest.mark.parametrize("case", [Case("DDIM", PLAIN), Case("EulerDiscrete", SD)], ids=str)
def test_image_to_image_begins_at_a_node(case, method):
    s = as_scheduler(method, case.scheduler())
    s.set_timesteps(6)
    found, begin = s.found(), 2 * s.order
    times = torch.tensor(found.plan.times[2:], dtype=FLOAT64)
    plan = method.along(found.process, times)
    noise = slots_drawn(plan, X, 0) if plan.slots else None
    true = run(found.denoiser(NETWORK), plan, X, noise=noise)
    s.set_begin_index(begin)
    assert gap(turns(s, X, s.timesteps[begin:], generator=torch.Generator().manual_seed(0)), true) < 1e-10
    assert s.step_index == len(s.timesteps) and s.begin_index == begin
    assert plan_from_scheduler(s, 6, begin=begin).plan == plan
    if s.order == 1:  # as schedulers are asked that have no begin index
        s.set_timesteps(6)
        assert gap(turns(s, X, s.timesteps[2:], generator=torch.Generator().manual_seed(0)), true) < 1e-10


@pytest.mark.parametrize(
    "method, begin, words",
    [
        (EDMHeun(), 3, "got EDMHeun.* from network call 3, from where it would make 7 calls, expected the 8"),
        (DPMSolverPPSingle(3), 4, "got network call 4, which lies inside step 1 of DPMSolverPPSingle"),
        (PNDM(), 4, "from network call 4, from where it would make 14 calls, expected the 11"),
    ],
    ids=str,
)
def test_what_does_not_begin_there_is_said(method, begin, words):
    s = as_scheduler(method, Case("DPMSolverMultistep", KARRAS).scheduler())
    s.set_timesteps(6)
    s.set_begin_index(begin)
    with pytest.raises(ValueError, match=words):
        turns(s, X, s.timesteps[begin:])


def test_turns_come_one_by_one():
    s = as_scheduler(DPMSolverPP(2), Case("DPMSolverMultistep", KARRAS).scheduler())
    with pytest.raises(
        ValueError, match="got a turn before any timesteps, expected them set; call set_timesteps"
    ):
        s.step(X, 1, X)
    first = loop(s, X, 5)
    with pytest.raises(ValueError, match="got a turn after the last of 5"):
        s.step(X, s.timesteps[-1], X)
    assert torch.equal(loop(s, X, 5), first)  # nothing is left of the run before
    for wrong in (0, 2):  # repeated, left out
        s.set_timesteps(5)
        s.step(X, s.timesteps[0], X)
        with pytest.raises(
            ValueError, match="got timestep .*, expected .*, number 1 of 5: turns come one by one"
        ):
            s.step(X, s.timesteps[wrong], X)
        with pytest.raises(ValueError, match="number 1 of 5"):
            s.scale_model_input(X, s.timesteps[wrong])
        s.step(X, float(s.timesteps[1]), X)  # by its value too
    s.set_timesteps(5)
    with pytest.raises(ValueError, match=r"got model_output \(2, 8, 2, 2\), expected \(2, 4, 2, 2\)"):
        s.step(torch.cat([X, X], 1), s.timesteps[0], X)


def test_options_of_the_replaced_method_are_refused():
    for kind, name, off in (("DDIM", "eta", 0.0), ("TCD", "eta", 0.0), ("EulerDiscrete", "s_churn", 0.0)):
        s = as_scheduler(DDIM(), Case(kind, SD).scheduler())
        s.set_timesteps(4)
        with pytest.raises(ValueError, match=f"got {name}=0.5, an option of {kind}Scheduler, expected none"):
            s.step(X, s.timesteps[0], X, **{name: 0.5})
        s.step(X, s.timesteps[0], X, **{name: off})
    with pytest.raises(TypeError, match="unexpected argument 'colour'"):
        s.step(X, s.timesteps[1], X, colour=1)
    with pytest.raises(ValueError, match="got variance_noise=a tensor"):
        ddim = as_scheduler(DDIM(), Case("DDIM", SD).scheduler())
        ddim.set_timesteps(4)
        ddim.step(X, ddim.timesteps[0], X, variance_noise=X)


def test_what_no_loop_can_run_is_refused():
    euler = Case("EulerDiscrete", SD).scheduler()
    attempts: tuple[tuple[Method, str], ...] = (
        (EDMHeun(churn=4.0), "which changes the state before its first network call"),
        (DDPM(PosteriorVariance.LEARNED), "asks the network for a variance"),
    )
    for method, words in attempts:
        with pytest.raises(ValueError, match=words):
            as_scheduler(method, euler).set_timesteps(4)
    as_scheduler(EDMHeun(churn=4.0, s_max=10.0), euler).set_timesteps(4)
    with pytest.raises(ValueError, match="got a grid for each of 2 samples, expected one for all"):
        grid = torch.tensor([[10.0, 9.0], [1.0, 1.0]])
        as_scheduler(DDIM(), euler, grid=GivenTimes(grid)).set_timesteps(1)
    with pytest.raises(ValueError, match="num_inference_steps: got 4, expected the grid's 6"):
        as_scheduler(DDIM(), euler, grid=Karras(6, 10.0, 0.1)).set_timesteps(4)
    with pytest.raises(TypeError, match="DDIM"):
        as_scheduler(DDIM, euler)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="expected a diffusers scheduler; pass pipe.scheduler"):
        as_scheduler(DDIM(), None)
    with pytest.raises(ValueError, match="got RePaintScheduler, whose steps take a known image"):
        as_scheduler(DDIM(), type("RePaintScheduler", (), {})())
    with pytest.raises(ValueError, match="got a rising grid"):
        as_scheduler(SEEDS(2), Case("DDIMInverse", PLAIN).scheduler()).set_timesteps(4)


def test_a_grid_takes_the_place_of_the_nodes():
    for case in (Case("EulerDiscrete", SD), Case("DPMSolverMultistep", SD)):
        grid = Karras(6, 12.0, 0.05)
        s = as_scheduler(DEIS(3), case.scheduler(), grid=grid)
        ours = loop(s, X, 6)
        found = plan_from_scheduler(case.scheduler(), 6)
        scale = found.scale * (12.0 / found.plan.times[0] if case.kind == "EulerDiscrete" else 1.0)  # type: ignore
        assert math.isclose(s.init_noise_sigma, scale)
        assert gap(ours, run(found.denoiser(NETWORK), DEIS(3).plan(found.process, grid), X * scale)) < 1e-10
        assert torch.allclose(s.sigmas.double(), grid.times(found.process), rtol=1e-6)


def test_it_stays_what_it_stands_for(tmp_path):
    diffusers: Any = importlib.import_module("diffusers")

    case = Case("EulerDiscrete", {**SD, "use_karras_sigmas": True})
    theirs, s = case.scheduler(), as_scheduler(DPMSolverPP(3), case.scheduler())
    assert isinstance(s, diffusers.EulerDiscreteScheduler) and type(s).__name__ == "EulerDiscreteScheduler"
    assert s.config == theirs.config and repr(s).startswith("as_scheduler(DPMSolverPP(order=3")
    for method in ("set_timesteps", "step"):
        assert inspect.signature(getattr(s, method)) == inspect.signature(getattr(theirs, method))
    unipc = as_scheduler(SEEDS(2), Case("UniPCMultistep", SD).scheduler())
    assert list(inspect.signature(unipc.step).parameters)[-2:] == ["return_dict", "generator"]
    s.save_pretrained(tmp_path)
    for again in (type(s).from_config(s.config), type(theirs).from_pretrained(tmp_path)):
        assert type(again) is type(theirs) and again.config.use_karras_sigmas
    assert type(diffusers.DDIMScheduler.from_config(s.config)) is diffusers.DDIMScheduler
    assert type(as_scheduler(DDIM(), s)) is type(s) and s.order == 1 and s.timesteps is not None
    half = DPMSolverPP(3)
    s = as_scheduler(half, case.scheduler())
    whole = loop(s, X, 5)
    s.set_timesteps(5)
    x = turns(s, X * s.init_noise_sigma, s.timesteps[:3])
    for twin in (copy.deepcopy(s), pickle.loads(pickle.dumps(s))):  # in the middle of a run
        assert torch.equal(turns(twin, x, twin.timesteps[3:]), whole)
    assert torch.equal(turns(s, x, s.timesteps[3:]), whole)
    s.set_timesteps(5)
    s.set_begin_index(2)
    assert torch.allclose(s.add_noise(X, X, s.timesteps[2:3]), X * (1 + s.sigmas[2]))


def test_the_configuration_clips_and_variances_are_left_out():
    case = Case("DDPM", {"variance_type": "learned_range"})
    s = as_scheduler(DPMSolverPP(2), case.scheduler())

    def improved(x, t):
        return torch.cat([NETWORK(x, t), x], 1)

    ours = loop(s, X, 5, network=improved)
    found = replace(s.found(), calling=None)
    assert found.plan == planned(OnData(DPMSolverPP(2), Clamp(-1.0, 1.0)), case.scheduler(), 5)
    assert gap(ours, run(found.denoiser(NETWORK), found.plan, X)) < 1e-10
    own = as_scheduler(OnData(DPMSolverPP(2), Clamp(-2.0, 2.0)), case.scheduler())
    own.set_timesteps(5)
    assert "high=2.0" in own.found().plan.name and "high=1.0" not in own.found().plan.name


def test_the_state_stays_wide_and_changes_count():
    s = as_scheduler(DPMSolverPP(2), Case("FlowMatchEulerDiscrete").scheduler())

    def answer(x, t):
        return torch.tanh(x.float())  # the same for a state and for its rounding, but for the rounding

    def rounded(keep: bool) -> Tensor:
        x = X.bfloat16()
        s.set_timesteps(40)
        for t in s.timesteps:
            x = s.step(answer(x, t), t, x if keep else x.float())[0]
        return x

    s.set_timesteps(40)
    exact = turns(s, X.bfloat16().float(), s.timesteps, answer)
    kept = rounded(True)
    assert kept.dtype == torch.bfloat16 and gap(kept.float(), exact) < 4e-3  # one rounding of 2^-9
    # what the pipeline writes between two turns is where the next starts
    for dtype, near in ((FLOAT64, 1e-12), (torch.bfloat16, 2e-2)):
        s.set_timesteps(4)
        x = turns(s, X.to(dtype), s.timesteps[:1])
        found, moved = s.found(), x + 3
        ours = turns(s, moved, s.timesteps[1:])
        s.set_timesteps(4)
        turns(s, X, s.timesteps[:1])
        true = turns(s, moved.double(), s.timesteps[1:])
        assert gap(ours.double(), true) < near and found.plan.nfe == 4


def test_the_prediction_of_the_data_comes_with_the_step():
    case = Case("DDIM", PLAIN)
    theirs = case.scheduler()
    for method in (DDIM(), DEIS(2)):
        s = as_scheduler(method, case.scheduler())
        for each in (s, theirs):
            each.set_timesteps(5)
        ours, true = (each.step(X, each.timesteps[0], X, return_dict=True) for each in (s, theirs))
        assert gap(ours.pred_original_sample, true.pred_original_sample) < 1e-6
        assert gap(ours.prev_sample, true.prev_sample) < (1e-6 if method == DDIM() else 1.0)


def test_a_slot_that_is_asked_for_again_is_the_same_draw():
    noise = PipelineNoise({0: 2, 1: 1})
    noise.draw_from(torch.Generator().manual_seed(0), FLOAT64)
    first, other, again = (noise(slot, X) for slot in (0, 1, 0))
    assert torch.equal(first, again) and not torch.equal(first, other) and not noise.kept
