"""Corrected: the method that a scheduler is named after, with its paper's weights and its true order."""

from collections.abc import Callable, Mapping
from typing import Any

from ..compiler import Method
from ..methods.adams import LMS
from ..methods.around.ancestral import Ancestral
from ..methods.around.on_data import Clamp, DynamicThreshold, OnData
from ..methods.ddim import DDIM, DDPM, PosteriorVariance
from ..methods.dpm import DPMSolver, DPMSolverPP
from ..methods.dpm_single import KDPM2, DPMSolverPPSingle, DPMSolverSingle
from ..methods.edm import EDMHeun
from ..methods.flow import FlowEuler, FlowHeun
from ..methods.pndm import IPNDM, PLMS, PNDM
from ..methods.sa import SASolver
from ..methods.sde import SDEDPMSolver, SDEDPMSolverPP
from ..methods.seeds import SEEDS
from ..methods.tau import Tau
from ..methods.unipc import BVariant, UniPC
from ..plan import Plan
from ..process import Process

Options = Mapping[str, Any]


def true_plan(s: Any, process: Process, nodes: list[float], options: Options) -> Plan:
    """The method's plan on the scheduler's nodes, without its repeated ones.

    Raises:
        ValueError: a scheduler whose steps approximate nothing (consistency models), or whose method is not here.
    """
    name = type(s).__name__
    make = METHODS.get(name)
    method = make(s, options) if make else None
    if method is None:
        raise ValueError(
            f"plan_from_scheduler: got corrected=True for {name}, expected a scheduler of a method with an order; a "
            "distilled network's step has none, leave corrected out"
        )
    method = limited(method, s.config)
    times = [t for k, t in enumerate(nodes) if not k or t != nodes[k - 1]]
    if (
        name == "DPMSolverSinglestepScheduler"
    ):  # it counts network calls: a step of its method spans several nodes
        times = [*times[: -1 : s.config.solver_order], times[-1]]
    return method.along(process, times)


def limited(method: Method, config: Any) -> Method:
    """`method` with the clipping or thresholding that a scheduler's configuration asks for, unless it has its own."""
    if isinstance(method, OnData):
        return method
    if getattr(config, "thresholding", False):
        return OnData(method, DynamicThreshold(config.dynamic_thresholding_ratio, config.sample_max_value))
    if getattr(config, "clip_sample", False):
        return OnData(method, Clamp(-config.clip_sample_range, config.clip_sample_range))
    return method


def _multistep(s: Any, options: Options) -> Method | None:
    kind, order, exact = s.config.algorithm_type, s.config.solver_order, s.config.solver_type == "heun"
    if kind == "sde-dpmsolver++":
        return SDEDPMSolverPP(order, exact=exact)
    if kind == "sde-dpmsolver":
        return SDEDPMSolver()
    if kind == "dpmsolver++":
        return DPMSolverPP(order, exact=exact)
    return DPMSolver(order, exact=exact)


def _single(s: Any, options: Options) -> Method:
    kind, order, exact = s.config.algorithm_type, s.config.solver_order, s.config.solver_type == "heun"
    if kind == "sde-dpmsolver++":
        return SEEDS(order)
    if order == 1:
        return DDIM()
    return (DPMSolverPPSingle if kind == "dpmsolver++" else DPMSolverSingle)(order, exact=exact)


def _ddpm(s: Any, options: Options) -> Method:
    large = s.config.variance_type.startswith("fixed_large")
    return DDPM(PosteriorVariance.LARGE if large else PosteriorVariance.SMALL)


def _unipc(s: Any, options: Options) -> Method:
    return UniPC(s.config.solver_order, variant=BVariant(s.config.solver_type))


def _sa(s: Any, options: Options) -> Method:
    level = {float(t): float(sigma) for t, sigma in zip(s.timesteps, s.sigmas, strict=False)}
    on = [sigma for t, sigma in level.items() if s.tau_func(t)]
    tau = Tau(s.tau_func(max(t for t in level if s.tau_func(t))), min(on), max(on)) if on else 0.0
    return SASolver(s.config.predictor_order, s.config.corrector_order, tau=tau)


def _ddim(s: Any, options: Options) -> Method:
    return DDIM(options.get("eta", 0.0))


METHODS: dict[str, Callable[[Any, Options], Method | None]] = {
    "CogVideoXDDIMScheduler": _ddim,
    "CogVideoXDPMScheduler": lambda s, _: SDEDPMSolverPP(2),
    "CosineDPMSolverMultistepScheduler": lambda s, _: SDEDPMSolverPP(s.config.solver_order),
    "DDIMInverseScheduler": lambda s, _: DDIM(),
    "DDIMParallelScheduler": _ddim,
    "DDIMScheduler": _ddim,
    "DDPMParallelScheduler": _ddpm,
    "DDPMScheduler": _ddpm,
    "DEISMultistepScheduler": lambda s, _: DPMSolver(s.config.solver_order, exact=True),
    "DPMSolverMultistepInverseScheduler": _multistep,
    "DPMSolverMultistepScheduler": _multistep,
    "DPMSolverSDEScheduler": lambda s, _: SEEDS(2),
    "DPMSolverSinglestepScheduler": _single,
    "EDMDPMSolverMultistepScheduler": _multistep,
    "EDMEulerScheduler": lambda s, _: DDIM(),
    "EulerAncestralDiscreteScheduler": lambda s, _: Ancestral(DDIM()),
    "EulerDiscreteScheduler": lambda s, _: DDIM(),
    "FlowMatchEulerDiscreteScheduler": lambda s, _: None if s.config.stochastic_sampling else FlowEuler(),
    "FlowMatchHeunDiscreteScheduler": lambda s, _: FlowHeun(),
    "HeunDiscreteScheduler": lambda s, _: EDMHeun(),
    "IPNDMScheduler": lambda s, _: IPNDM(),
    "KDPM2AncestralDiscreteScheduler": lambda s, _: Ancestral(KDPM2()),
    "KDPM2DiscreteScheduler": lambda s, _: KDPM2(),
    "LMSDiscreteScheduler": lambda s, options: LMS(options.get("order", 4)),
    "PNDMScheduler": lambda s, _: PLMS() if s.config.skip_prk_steps else PNDM(),
    "SASolverScheduler": _sa,
    "UniPCMultistepScheduler": _unipc,
    "UnCLIPScheduler": lambda s, _: DDPM(),
}
