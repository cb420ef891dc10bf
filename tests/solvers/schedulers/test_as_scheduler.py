"""Our samplers where a pipeline expects its scheduler: the image is that of `run` around the same network."""

import copy
import inspect
import math
import pickle
from typing import Any

import diffusers
import pytest
import torch
from scheduler_cases import SD, Case, Net
from torch import Tensor

from pullback.solvers import (
    BDIA,
    DDIM,
    DDPM,
    DEIS,
    EDICT,
    ERSDE,
    GHVB,
    IPNDM,
    SEEDS,
    Addressed,
    Clamp,
    DPMSolverPP,
    DPMSolverPPSingle,
    EDMHeun,
    Ends,
    FlowEuler,
    FlowHeun,
    FlowSDE,
    GivenTimes,
    LangevinCorrected,
    Method,
    OnData,
    OnDataOnly,
    Plan,
    PosteriorVariance,
    Process,
    Restart,
    SASolver,
    UniformLambda,
    UniPC,
    run,
)  # fmt: skip
from pullback.solvers.schedulers import SchedulerPlan, as_scheduler, plan_from_scheduler
from pullback.solvers.schedulers.known import CONVENTIONS

FLOAT64 = torch.float64
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


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


def loop(s: Any, network: Any, x: Tensor, steps: int, generator: Any = None, **given: Any) -> Tensor:
    """A text-to-image pipeline's loop around an unscaled noise x."""
    s.set_timesteps(steps, **given)
    x = x * s.init_noise_sigma
    for t in s.timesteps:
        shown = s.scale_model_input(x, t) if hasattr(s, "scale_model_input") else x
        x = s.step(network(shown, t.expand(len(x))), t, x, generator=generator, return_dict=False)[0]
    return x


def truth(
    method: Method, s: Any, network: Any, x: Tensor, steps: int, noise: Any = None, **given: Any
) -> Tensor:
    """`run` of the method's plan on the scheduler's own nodes."""
    found, plan = planned(method, s, steps, **given)
    return run(found.denoiser(network), plan, x * found.scale, noise=noise)


def planned(method: Method, s: Any, steps: int, **given: Any) -> tuple[SchedulerPlan, Plan]:
    found = plan_from_scheduler(s, steps, **given)
    ready = copy.deepcopy(s)
    ready.set_timesteps(steps, **given)
    times = CONVENTIONS[type(s).__name__].nodes(ready)
    return found, method.along(found.process, [t for k, t in enumerate(times) if not k or t != times[k - 1]])


class Drawn:
    """The draws of a generator in the order of a plan's instructions, as slots."""

    @staticmethod
    def slots(plan: Plan, like: Tensor, seed: int) -> Tensor:
        generator, drawn = torch.Generator().manual_seed(seed), {}
        for op in plan.instructions:
            for _, slot in getattr(op, "noise", ()):
                if slot not in drawn:
                    drawn[slot] = torch.randn(like.shape, generator=generator, dtype=like.dtype)
        return torch.stack([drawn[slot] for slot in range(plan.slots)])


EULER, VTRAIL = Case("EulerDiscrete", SD), {"prediction_type": "v_prediction", "timestep_spacing": "trailing"}
PROCESSES = [
    Case("DDIM", {**SD, "clip_sample": False, "steps_offset": 1}),
    Case("DDIM", {**SD, **VTRAIL, "clip_sample": False, "set_alpha_to_one": False}),
    Case("PNDM", {**SD, "skip_prk_steps": True, "steps_offset": 1}),
    Case("DPMSolverMultistep", {**SD, "use_karras_sigmas": True}),
    Case(
        "UniPCMultistep", {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    ),
    EULER,
    Case("EulerDiscrete", {**SD, **VTRAIL}),
    Case("HeunDiscrete", {**SD, "use_karras_sigmas": True}),
    Case("KDPM2Discrete", SD),
    Case("EDMEuler"),
    Case("FlowMatchEulerDiscrete", {"shift": 3.0}),
    Case("FlowMatchEulerDiscrete", {"use_dynamic_shifting": True}, given={"mu": 0.8}),
]
METHODS: list[Method] = [
    DDIM(), DDIM(0.7), DEIS(4), UniPC(3), DPMSolverPP(3), DPMSolverPPSingle(3), EDMHeun(), GHVB(1.8), ERSDE(3),
    SEEDS(2), SASolver(2, 3, tau=0.5), BDIA(), EDICT(), LangevinCorrected(DDIM()),
]  # fmt: skip
FLOWS: list[Method] = [FlowEuler(), FlowHeun(), FlowSDE(0.5), DPMSolverPP(2), UniPC(3), SEEDS(2)]


@pytest.mark.parametrize("case", PROCESSES, ids=str)
def test_the_loop_of_a_pipeline_is_the_plan(case):
    network, draw = Smooth(), torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 2, 2, generator=draw, dtype=FLOAT64)
    flow = case.kind.startswith("FlowMatch") or "flow_shift" in case.config
    for method in FLOWS if flow else METHODS:
        _, plan = planned(method, case.scheduler(), 6, **case.given)
        noise = Drawn.slots(plan, x, 3) if plan.slots else None
        for dtype, near in ((FLOAT64, 1e-10), (torch.float32, 1e-5)):
            true = truth(method, case.scheduler(), network, x, 6, noise, **case.given)
            s = as_scheduler(method, case.scheduler(), noise=noise)
            with torch.no_grad():
                ours = loop(s, network, x.to(dtype), 6, **case.given)
            assert len(s.timesteps) == plan.nfe == s.step_index, method
            assert float((ours - true).abs().max() / true.abs().max()) < near, (method, dtype)
