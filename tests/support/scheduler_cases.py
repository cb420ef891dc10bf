"""Configurations of diffusers' schedulers, their own loops, and a network for them."""

import sys
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pullback.adjoint import sample
from pullback.solvers import Plan
from pullback.solvers.schedulers import plan_from_scheduler


@dataclass(frozen=True)
class Case:
    """One configuration: class, its arguments, and those of set_timesteps and step.

    Attributes:
        exact: how near the plan comes in float64 to the loop without the scheduler's casts.
        shipped: the same with them.
    """

    kind: str
    config: dict[str, Any] = field(default_factory=dict)
    steps: int = 8
    given: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    exact: float = 1e-11
    shipped: float = 1e-6

    def __str__(self) -> str:
        named = {**self.config, **self.given, **self.options}
        inside = ", ".join(f"{k}={v.__name__ if callable(v) else v}" for k, v in named.items())
        return f"{self.kind.removesuffix('Scheduler')}({inside}) x{self.steps}"

    def scheduler(self) -> Any:
        import diffusers
        from diffusers.utils import logging

        logging.set_verbosity_error()
        return getattr(diffusers, f"{self.kind}Scheduler")(**self.config)

    @property
    def learned(self) -> bool:
        """Whether the network has variances behind its answer."""
        return "learned" in str(self.config.get("variance_type"))

    @property
    def channels(self) -> int:
        """Of the state: DPM-Solver knows of three where variances are learned."""
        return 3 if self.learned and "DPMSolver" in self.kind else 4

    def ready(self) -> Any:
        """A scheduler whose times are set."""
        s = self.scheduler()
        s.set_timesteps(self.steps, **self.given) if self.steps else s.set_timesteps(**self.given)
        return s


SD: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


class Net(nn.Module):
    """A smooth network of (x, label) with parameters; labels enter by their size to any scale."""

    def __init__(self, channels: int = 4, learned: bool = False) -> None:
        super().__init__()
        self.learned = learned  # whether variances stand behind its answer
        draw = torch.Generator().manual_seed(1)
        self.mix = nn.Parameter(torch.randn(channels, channels, generator=draw, dtype=torch.float64) / 2)
        self.shift = nn.Parameter(torch.randn(channels, generator=draw, dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        t = t.to(x).reshape(-1, 1, 1, 1)
        mixed = torch.einsum("ij,bjhw->bihw", self.mix.to(x), torch.tanh(x))
        wave = torch.cos(t / 400 + x.mean((1, 2, 3), True) / 3)
        out = mixed + self.shift.to(x).reshape(1, -1, 1, 1) * wave
        return torch.cat([out, torch.sigmoid(mixed - x / 3)], 1) if self.learned else out


class Tree:
    """Brownian increments of unit variance over intervals of one path; each new stretch takes the next draw."""

    def __init__(self, draws: Tensor) -> None:
        self.draws, self.used, self.path = draws, 0, {}

    def __call__(self, start: Any, end: Any) -> Tensor:
        high, low = max(float(start), float(end)), min(float(start), float(end))
        if high not in self.path:
            self.path = {high: torch.zeros_like(self.draws[0])}
        if low not in self.path:
            last = min(self.path)
            self.path[low] = self.path[last] + (last - low) ** 0.5 * self.draws[self.used]
            self.used += 1
        return (self.path[low] - self.path[high]) / (high - low) ** 0.5


class Uncast(TorchFunctionMode):
    """Float64 states stay float64, whatever a scheduler casts them to."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        casts = func in (Tensor.to, Tensor.float) and args[0].dtype == torch.float64 and args[0].ndim > 1
        return args[0] if casts else func(*args, **(kwargs or {}))


FLOAT_SCALES = (  # their scale_model_input is a float32 number
    "Euler", "Heun", "KDPM2", "LMS", "DPMSolverSDE", "EDM", "Cosine", "CMStochastic",
)  # fmt: skip


def own_loop(
    case: Case, network: Any, x: Tensor, draws: Tensor, monkeypatch: Any, ready: Any = None
) -> Tensor:
    """The scheduler's loop as a pipeline writes it, with `draws` for its random numbers."""
    s = case.ready() if ready is None else ready
    rest = iter(draws)
    module = sys.modules[type(s).__module__]
    if hasattr(module, "randn_tensor"):
        monkeypatch.setattr(module, "randn_tensor", lambda shape, **_: next(rest).to(x))
    if hasattr(s, "noise_sampler"):
        s.noise_sampler = Tree(draws.to(x))
    x, before, last = x * float(getattr(s, "init_noise_sigma", 1.0)), None, None
    labels = s.timesteps[:-1] if case.kind in ("SCM", "DDPMWuerstchen") else s.timesteps
    for k, t in enumerate(labels):
        shown = s.scale_model_input(x, t) if hasattr(s, "scale_model_input") else x
        out = network(shown, t.expand(len(x)))
        if case.kind == "CogVideoXDPM":
            x, before = s.step(out, before, t, last, x, return_dict=False, **case.options)
        elif case.kind == "UnCLIP":
            after = s.timesteps[k + 1] if k + 1 < len(s.timesteps) else None
            x = s.step(out, t, x, prev_timestep=after, return_dict=False, **case.options)[0]
        elif case.kind == "DDPMWuerstchen":
            x = s.step(out, t.expand(len(x)), x, return_dict=False, **case.options)[0]
        else:
            x = s.step(out, t, x, return_dict=False, **case.options)[0]
        last = t
    return x


def slots_drawn(plan: Plan, like: Tensor, seed: int) -> Tensor:
    """The draws of a generator, in the order in which the plan's instructions ask for them."""
    generator, found = torch.Generator().manual_seed(seed), {}
    for op in plan.instructions:
        for _, slot in getattr(op, "noise", ()):
            if slot not in found:
                found[slot] = torch.randn(like.shape, generator=generator, dtype=like.dtype)
    return torch.stack([found[slot] for slot in range(plan.slots)])


def cases() -> list[Case]:
    """All configurations."""
    return [*_tables(), *_unit_variance(), *_exploding(), *_edm(), *_flows(), *_few_steps()]


def _tables() -> list[Case]:
    plain = {**SD, "clip_sample": False}
    return [
        Case("DDIM", plain),
        Case("DDIM", SD),  # clip_sample is the class's default
        Case("DDIM", plain, options={"eta": 0.5}),
        Case("DDIM", plain, options={"eta": 1.0}),
        Case("DDIM", SD, options={"eta": 0.7}),
        Case("DDIM", SD, options={"use_clipped_model_output": True}),
        Case(
            "DDIM", {**SD, "clip_sample_range": 2.0}, options={"eta": 0.5, "use_clipped_model_output": True}
        ),
        Case("DDIM", {**plain, "set_alpha_to_one": False, "steps_offset": 1}),
        Case("DDIM", {**plain, "set_alpha_to_one": False}),
        Case("DDIM", {**plain, "timestep_spacing": "trailing"}),
        Case("DDIM", {**plain, "timestep_spacing": "linspace"}, 7),
        Case(
            "DDIM",
            {
                **plain,
                "timestep_spacing": "trailing",
                "rescale_betas_zero_snr": True,
                "prediction_type": "v_prediction",
            },
        ),
        Case("DDIM", {**plain, "prediction_type": "v_prediction"}, options={"eta": 0.3}),
        Case("DDIM", {**SD, "prediction_type": "sample"}),
        Case(
            "DDIM",
            {**plain, "thresholding": True, "sample_max_value": 3.0, "dynamic_thresholding_ratio": 0.9},
        ),
        Case("DDIM", {"beta_schedule": "squaredcos_cap_v2", "clip_sample": False}),
        Case("DDIMParallel", plain, options={"eta": 0.5}),
        Case("DDIMInverse", plain),
        Case("DDIMInverse", plain, 2),  # its last call is at t = 0
        Case("DDIMInverse", {**plain, "set_alpha_to_one": False, "prediction_type": "v_prediction"}),
        Case("DDIMInverse", {**plain, "timestep_spacing": "trailing"}),
        Case("CogVideoXDDIM", {**plain, "prediction_type": "v_prediction", "snr_shift_scale": 3.0}),
        Case(
            "CogVideoXDDIM",
            {
                **plain,
                "prediction_type": "v_prediction",
                "rescale_betas_zero_snr": True,
                "timestep_spacing": "trailing",
            },
        ),
        Case("CogVideoXDPM", {**plain, "prediction_type": "v_prediction", "timestep_spacing": "trailing"}),
        Case("DDPM", {"clip_sample": False}),
        Case("DDPM"),
        Case("DDPM", {"variance_type": "fixed_large", "clip_sample": False}),
        Case("DDPM", {"variance_type": "fixed_small_log", "clip_sample": False}),
        *(
            Case("DDPM", {"variance_type": kind, "clip_sample": clip})
            for kind in ("learned", "learned_range")
            for clip in (False, True)
        ),
        Case("DDPM", {"variance_type": "learned_range", "thresholding": True, "sample_max_value": 2.0}),
        Case("DDPM", {"thresholding": True, "sample_max_value": 2.0, "prediction_type": "v_prediction"}),
        Case("DDPM", {"prediction_type": "sample", "timestep_spacing": "trailing"}),
        Case("DDPM", {"clip_sample": False}, 0, given={"timesteps": [900, 700, 400, 150, 20]}),
        Case("DDPMParallel", {"clip_sample": False}, 6),
        Case("PNDM", {**SD, "skip_prk_steps": True, "steps_offset": 1}, 9),
        Case("PNDM", SD, 9),
        Case("PNDM", {**SD, "skip_prk_steps": True, "prediction_type": "v_prediction"}),
        Case(
            "PNDM", {**SD, "skip_prk_steps": True, "set_alpha_to_one": True, "timestep_spacing": "trailing"}
        ),
        # it divides by max(alpha, 1e-8) at alpha = 0: its numbers have eight digits less
        Case("IPNDM", exact=1e-8),
        Case("DDPMWuerstchen"),
        Case("UnCLIP", {}),
        Case("UnCLIP", {"variance_type": "learned_range"}),
        Case("UnCLIP", {"clip_sample": False, "prediction_type": "sample"}),
    ]


def _unit_variance() -> list[Case]:
    multi, single = "DPMSolverMultistep", "DPMSolverSinglestep"
    karras = {**SD, "use_karras_sigmas": True}
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    return [
        *(Case(multi, {**SD, "solver_order": k}) for k in (1, 2, 3)),
        Case(multi, {**SD, "solver_order": 2}, 16),
        Case(multi, {**SD, "solver_order": 3}, 16),
        Case(multi, {**SD, "solver_type": "heun"}),
        Case(multi, {**SD, "lower_order_final": False, "final_sigmas_type": "sigma_min"}),
        Case(multi, {**SD, "solver_order": 3, "lower_order_final": False, "final_sigmas_type": "sigma_min"}),
        Case(multi, {**SD, "euler_at_final": True}, 16),
        Case(multi, karras),
        Case(multi, {**karras, "solver_order": 3, "final_sigmas_type": "sigma_min"}),
        Case(multi, {**SD, "use_exponential_sigmas": True}),
        Case(multi, {**SD, "use_beta_sigmas": True}),
        Case(multi, {**SD, "use_lu_lambdas": True}),
        Case(
            multi,
            {
                **SD,
                "timestep_spacing": "trailing",
                "prediction_type": "v_prediction",
                "rescale_betas_zero_snr": True,
            },
        ),
        Case(multi, {**SD, "timestep_spacing": "leading", "steps_offset": 1, "prediction_type": "sample"}),
        Case(multi, {**SD, "thresholding": True, "sample_max_value": 2.0}),
        Case(multi, {**SD, "algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}),
        Case(
            multi,
            {**SD, "algorithm_type": "dpmsolver", "solver_type": "heun", "final_sigmas_type": "sigma_min"},
        ),
        Case(
            multi, {**SD, "algorithm_type": "dpmsolver", "solver_order": 3, "final_sigmas_type": "sigma_min"}
        ),
        *(Case(multi, {**SD, "algorithm_type": "sde-dpmsolver++", "solver_order": k}) for k in (1, 2, 3)),
        Case(multi, {**karras, "algorithm_type": "sde-dpmsolver++", "solver_type": "heun"}),
        Case(
            multi,
            {**SD, "algorithm_type": "sde-dpmsolver", "solver_order": 1, "final_sigmas_type": "sigma_min"},
        ),
        Case(multi, {**SD, "algorithm_type": "sde-dpmsolver", "final_sigmas_type": "sigma_min"}),
        Case(multi, {**SD, "variance_type": "learned_range"}),
        Case(multi, flow),
        Case(multi, {**flow, "solver_order": 3}, 16),
        Case("DPMSolverMultistepInverse", SD),
        Case("DPMSolverMultistepInverse", {**karras, "solver_order": 3}),
        *(Case(single, {**SD, "solver_order": k}) for k in (1, 2, 3)),
        Case(single, {**SD, "solver_order": 3}, 7),
        Case(single, {**karras, "solver_type": "heun", "solver_order": 2}),
        Case(
            single,
            {**SD, "algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min", "solver_order": 3},
            9,
        ),
        Case(single, {**SD, "algorithm_type": "sde-dpmsolver++"}),
        *(Case("DEISMultistep", {**SD, "solver_order": k}, 9) for k in (1, 2, 3)),
        Case("DEISMultistep", {**karras, "solver_order": 3}, 16),
        Case("DEISMultistep", {**flow, "solver_order": 2}),
        *(Case("UniPCMultistep", {**SD, "solver_order": k}) for k in (1, 2, 3)),
        Case("UniPCMultistep", {**karras, "solver_order": 3}, 16),
        Case("UniPCMultistep", {**SD, "final_sigmas_type": "sigma_min", "solver_type": "bh1"}),
        Case("UniPCMultistep", {**SD, "final_sigmas_type": "sigma_min", "predict_x0": False}),
        Case("UniPCMultistep", {**SD, "disable_corrector": [0, 1]}),
        Case("UniPCMultistep", {**SD, "thresholding": True, "sample_max_value": 2.0}),
        Case("UniPCMultistep", {**flow, "solver_order": 3}),
        *(
            Case("SASolver", {**SD, "predictor_order": p, "corrector_order": c}, 9)
            for p, c in ((1, 1), (2, 2), (3, 3))
        ),
        Case("SASolver", {**karras, "tau_func": half}, 9),
        Case("SASolver", {**SD, "algorithm_type": "noise_prediction"}, 9),
    ]


def half(t: Any) -> float:
    """SA-Solver's tau: noise in a band of labels."""
    return 0.5 if 200 <= t <= 800 else 0.0


def _exploding() -> list[Case]:
    karras = {**SD, "use_karras_sigmas": True}
    v = {**SD, "prediction_type": "v_prediction"}
    return [
        Case("EulerDiscrete", SD),
        Case("EulerDiscrete", {**SD, "timestep_spacing": "leading", "steps_offset": 1}),
        Case("EulerDiscrete", {**v, "timestep_spacing": "trailing"}),
        # x is 4096 eps: what float32 leaves of it, and of its gradient
        Case(
            "EulerDiscrete",
            {**v, "timestep_spacing": "trailing", "rescale_betas_zero_snr": True},
            shipped=3e-5,
        ),
        Case("EulerDiscrete", {**SD, "prediction_type": "sample"}),
        Case("EulerDiscrete", karras),
        Case("EulerDiscrete", {**SD, "use_exponential_sigmas": True}),
        Case("EulerDiscrete", {**SD, "use_beta_sigmas": True, "final_sigmas_type": "sigma_min"}),
        Case("EulerDiscrete", karras, options={"s_churn": 4.0, "s_noise": 1.003}),
        Case(
            "EulerDiscrete",
            {
                **v,
                "timestep_type": "continuous",
                "sigma_min": 0.002,
                "sigma_max": 700.0,
                "use_karras_sigmas": True,
            },
        ),
        Case("EulerDiscrete", SD, 0, given={"timesteps": [999, 800, 500, 200, 30]}),
        Case("EulerDiscrete", SD, 0, given={"sigmas": [14.6, 6.0, 2.5, 1.0, 0.3, 0.0]}),
        Case("EulerAncestralDiscrete", SD),
        Case(
            "EulerAncestralDiscrete",
            {**v, "timestep_spacing": "trailing", "rescale_betas_zero_snr": True},
            shipped=1e-3,
        ),
        Case("HeunDiscrete", SD, 5),
        Case("HeunDiscrete", {**karras, "prediction_type": "v_prediction"}, 5),
        Case("HeunDiscrete", {**SD, "prediction_type": "sample", "clip_sample": True}, 5),
        Case("HeunDiscrete", {**SD, "use_exponential_sigmas": True}, 5),
        Case("KDPM2Discrete", SD, 5),
        Case("KDPM2Discrete", {**karras, "prediction_type": "v_prediction"}, 5),
        Case("KDPM2AncestralDiscrete", SD, 5),
        Case("KDPM2AncestralDiscrete", {**karras, "prediction_type": "v_prediction"}, 5),
        Case("LMSDiscrete", SD),
        Case("LMSDiscrete", {**karras, "prediction_type": "v_prediction"}, options={"order": 3}),
        Case("DPMSolverSDE", SD, 5),
        Case("DPMSolverSDE", {**karras, "prediction_type": "v_prediction"}, 5),
    ]


def _edm() -> list[Case]:
    return [
        Case("EDMEuler", {}),
        Case(
            "EDMEuler",
            {"prediction_type": "v_prediction", "sigma_data": 1.0, "sigma_schedule": "exponential"},
        ),
        Case("EDMEuler", {}, options={"s_churn": 4.0}),
        *(Case("EDMDPMSolverMultistep", {"solver_order": k}) for k in (1, 2, 3)),
        Case("EDMDPMSolverMultistep", {"algorithm_type": "sde-dpmsolver++", "solver_type": "heun"}),
        Case("EDMDPMSolverMultistep", {"solver_order": 3, "sigma_schedule": "exponential"}, 16),
        Case(
            "EDMDPMSolverMultistep",
            {"solver_order": 2, "euler_at_final": True, "prediction_type": "v_prediction"},
            16,
        ),
        Case("EDMDPMSolverMultistep", {"thresholding": True, "sample_max_value": 2.0}),
        Case("CosineDPMSolverMultistep", {}),
        Case("CosineDPMSolverMultistep", {"solver_order": 1, "prediction_type": "epsilon"}),
        Case("CosineDPMSolverMultistep", {"solver_type": "heun", "sigma_schedule": "karras"}, 16),
    ]


def _flows() -> list[Case]:
    flow = "FlowMatchEulerDiscrete"
    return [
        Case(flow),
        Case(flow, {"shift": 3.0}),
        Case(flow, {"use_dynamic_shifting": True}, given={"mu": 0.8}),
        Case(flow, {"use_dynamic_shifting": True, "time_shift_type": "linear"}, given={"mu": 1.5}),
        Case(flow, {"stochastic_sampling": True, "shift": 3.0}),
        Case(flow, {"use_karras_sigmas": True}),
        Case(flow, {"use_exponential_sigmas": True}),
        Case(flow, {"use_beta_sigmas": True}),
        Case(flow, {"invert_sigmas": True}),
        Case(flow, {"shift": 3.0, "shift_terminal": 0.1}),
        Case(flow, {}, 0, given={"sigmas": [1.0, 0.8, 0.5, 0.2]}),
        Case("FlowMatchHeunDiscrete", {}, 5),
        Case("FlowMatchHeunDiscrete", {"shift": 3.0}, 5, options={"s_churn": 1.0}),
        Case("FlowMatchLCM", {}),
        Case("FlowMapEulerDiscrete", {}),
        Case("MiniMaxH3"),
        Case("LTXEulerAncestralRF", {}, 0, given={"sigmas": [1.0, 0.9, 0.7, 0.4, 0.15, 0.0]}),
    ]


def _few_steps() -> list[Case]:
    return [
        Case("LCM", SD, 4),
        Case("LCM", {**SD, "clip_sample": True, "prediction_type": "v_prediction"}, 5),
        Case("LCM", {**SD, "thresholding": True, "sample_max_value": 2.0}, 4),
        Case("LCM", SD, 4, given={"original_inference_steps": 100}),
        Case("TCD", SD, 4),
        Case("TCD", SD, 4, options={"eta": 0.0}),
        Case("TCD", {**SD, "prediction_type": "v_prediction"}, 4, options={"eta": 1.0}),
        Case("SCM", {}, 2),
        Case("CMStochasticIterative", {}, 5),
        Case("CMStochasticIterative", {"clip_denoised": False}, 0, given={"timesteps": [39, 22, 10, 0]}),
    ]


@dataclass(frozen=True)
class Errors:
    """Of a plan beside its scheduler's own loop, relative to the largest value: of the sample and of its gradient (in
    the start and in a parameter).

    Attributes:
        exact: float64, beside the loop without the scheduler's casts.
        shipped: float64, beside the loop as it ships.
        single: float32, beside the loop in float32.
        ours, theirs: float32, each beside float64.
    """

    exact: tuple[float, float]
    shipped: tuple[float, float]
    single: tuple[float, float]
    ours: tuple[float, float]
    theirs: tuple[float, float]


def errors(case: Case, monkeypatch: Any) -> Errors:
    """One case measured: a batch of two, six calls or so."""
    draw, network = torch.Generator().manual_seed(0), Net(case.channels, case.learned)
    x = torch.randn(2, case.channels, 2, 2, generator=draw, dtype=torch.float64)
    draws = torch.randn(4 * max(case.steps, 12), *x.shape, generator=draw, dtype=torch.float64)
    number = {"num_inference_steps": case.steps} if case.steps else {}
    found = plan_from_scheduler(case.scheduler(), **number, **case.given, **case.options)

    def ours(x: Tensor) -> Tensor:
        start = found.start(x)
        noise = draws[: found.plan.slots].to(x) if found.plan.slots else None
        if noise is not None and start.shape != x.shape:
            noise = torch.cat([noise, noise], 2)
        return found.end(sample(found.denoiser(network), found.plan, start, noise=noise))

    def graded(run: Any, dtype: torch.dtype = torch.float64) -> list[Tensor]:
        start = x.to(dtype).requires_grad_()
        out = run(start)
        return [out, *torch.autograd.grad(out.square().sum(), (start, network.mix))]

    def theirs(x: Tensor) -> Tensor:
        return own_loop(case, network, x, draws, monkeypatch)

    with Uncast():
        true = graded(theirs)
    mine, single = graded(ours), graded(ours, torch.float32)
    shipped, own = graded(theirs), graded(theirs, torch.float32)
    pairs = ((mine, true), (mine, shipped), (single, own), (single, true), (own, true))
    return Errors(*((_gap(a[:1], b[:1]), _gap(a[1:], b[1:])) for a, b in pairs))


def _gap(left: list[Tensor], right: list[Tensor]) -> float:
    return max(
        float((a - b).detach().abs().max() / b.detach().abs().max()) for a, b in zip(left, right, strict=True)
    )
