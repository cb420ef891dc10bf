"""plan_from_scheduler: a diffusers scheduler's own loop as a plan."""

import copy
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..calling import Calling, Positional
from ..kinds import described
from ..methods.on_data import DynamicThreshold
from ..model import Denoiser
from ..plan import Plan
from ..prediction import Prediction
from ..process import Process, as_time
from .clocks import TableLabels
from .conventions import Convention
from .corrected import true_plan
from .known import CONVENTIONS, REFUSED, named_order
from .recorder import Recorder, recorded
from .scaled_call import ScaledCall, Scales


@dataclass(frozen=True)
class SchedulerPlan:
    """A scheduler's loop: what it steps, what the network is told, and the plan.

        found = plan_from_scheduler(pipe.scheduler, 20)
        x0 = sample(found.denoiser(pipe.unet), found.plan, noise * found.scale, cond=...)

    Attributes:
        plan: one step for each turn of the pipeline's loop; "x" at its start is the pipeline's `latents`.
        process, prediction, label: as `Denoiser` takes them.
        scale: of the starting noise (`init_noise_sigma`).
        scales: how inputs and outputs of the network are scaled (`scale_model_input`); None where they are not.
    """

    plan: Plan
    prediction: Prediction
    label: TableLabels
    scale: float
    scales: Scales | None = None

    @property
    def process(self) -> Process:
        """alpha and sigma of the states."""
        return self.plan.process

    def denoiser(
        self, network: Callable[..., Any], *, call: Calling = Positional(), dtype: torch.dtype | None = None
    ) -> Denoiser:
        """The network as the scheduler's pipeline calls it; arguments as of `Denoiser`."""
        if self.scales is None:
            return Denoiser(network, self.process, self.prediction, dtype, call=call, label=self.label)
        wrapped = ScaledCall(self.scales, self.process, self.label, call)
        return Denoiser(network, self.process, self.prediction, dtype, call=wrapped)


def plan_from_scheduler(
    scheduler: Any,
    num_inference_steps: int | None = None,
    *,
    timesteps: Sequence[float] | Sequence[int] | Tensor | None = None,
    sigmas: Sequence[float] | Sequence[int] | Tensor | None = None,
    mu: float | None = None,
    begin: int = 0,
    corrected: bool = False,
    **options: Any,
) -> SchedulerPlan:
    """The loop of a diffusers scheduler, as it ships, as a plan.

    `set_timesteps`, `scale_model_input` and `step` of a copy are played once on unit vectors, and the coefficients
    read off: first-order starts and ends, rounded labels and slips are its own. Clipping and dynamic thresholding
    become an `Apply`. Slot k of the plan's noise is the k-th tensor that the scheduler draws.

    Args:
        scheduler: an object of diffusers 0.42 (`CONVENTIONS` names the classes).
        num_inference_steps, timesteps, sigmas, mu: as its `set_timesteps` takes them.
        begin: turns of the loop left out at its start, as image-to-image pipelines do.
        corrected: the method of that name with the weights of its paper, on the same nodes, in place of what ships.
        options: further arguments of `set_timesteps` (`original_inference_steps`) and of `step` (`eta`, `s_churn`).

    Raises:
        ValueError: a scheduler that is no recurrence over one real state (the reason is named), or coefficients that
            are not finite. TypeError: not a scheduler; an option that neither method takes.

    Coefficients are float64 numbers of the scheduler's own arithmetic; where it computes them in float32 they have
    float32's accuracy, and where it rounds the state to float32 the plan does not. Cost: no network call.
    """
    convention = _convention(scheduler)
    s = copy.deepcopy(scheduler)
    given = {"num_inference_steps": num_inference_steps, "timesteps": timesteps, "sigmas": sigmas, "mu": mu}
    given = {name: value for name, value in given.items() if value is not None}
    known = inspect.signature(s.set_timesteps).parameters
    given |= {name: options.pop(name) for name in list(options) if name in known}
    unknown = options.keys() - inspect.signature(s.step).parameters.keys() | given.keys() - known.keys()
    if unknown:
        raise TypeError(
            f"plan_from_scheduler: got {sorted(unknown)}, expected arguments of {type(s).__name__}.set_timesteps or "
            ".step; leave them out"
        )
    s.set_timesteps(**given)
    if begin:
        s.set_begin_index(begin)
    found, broken = _played(s, convention, begin, options)
    if corrected:
        return replace(found, plan=true_plan(s, found.process, convention.nodes(s)[begin:], options))
    if broken is not None:
        raise ValueError(
            f"{type(s).__name__}: got a coefficient that is not finite in step {broken} of its own loop, expected "
            "numbers; it makes NaN of any sample: change its configuration, or pass corrected=True"
        )
    return found


def _convention(scheduler: Any) -> Convention:
    names = [base.__name__ for base in type(scheduler).__mro__]
    for name in names:
        if name in REFUSED:
            raise ValueError(f"plan_from_scheduler: got {name}, {REFUSED[name]}")
        if name in CONVENTIONS:
            return CONVENTIONS[name]
    if not hasattr(scheduler, "set_timesteps"):
        raise TypeError(
            f"scheduler: got {described(scheduler)}, expected a diffusers scheduler; pass pipe.scheduler"
        )
    raise ValueError(
        f"plan_from_scheduler: got {names[0]}, expected one of {sorted(CONVENTIONS)}; pass its Convention's name "
        "by a subclass of one of these"
    )


def _played(
    s: Any, convention: Convention, begin: int, options: dict[str, Any]
) -> tuple[SchedulerPlan, int | None]:
    """The loop played on unit vectors, and its first step that makes NaN."""
    recorder, process, want = Recorder(), convention.process(s), convention.prediction(s)
    scales, times, levels, labels = convention.scales(s), [], [], convention.labels(s)[begin:]
    if hasattr(s, "_threshold_sample"):
        fn = DynamicThreshold(s.config.dynamic_thresholding_ratio, s.config.sample_max_value)
        s._threshold_sample = lambda data: recorder.applied(data, fn)
    if hasattr(s, "noise_sampler"):
        s.noise_sampler = recorder.brownian
    scale = float(getattr(s, "init_noise_sigma", 1.0))
    x = recorder.register("x")
    for k, label in enumerate(labels):
        recorder.begin()
        if getattr(s, "step_index", 0) is None and hasattr(s, "_init_step_index"):
            s._init_step_index(label)
        levels.append(convention.time(s, label))
        times.append(_distinct(levels[-1], float(label), times, labels))
        out = recorder.evaluated(times[-1], want)
        if scales is not None:
            out = _network_answer(scales, levels[-1], x, out)
        with recorder:
            if hasattr(s, "scale_model_input"):
                s.scale_model_input(x, label)
            new = convention.step(s, (out, label, x, begin + k), options)
        if not recorded(new):
            raise ValueError(
                f"{type(s).__name__}: got a step that changes the state's shape, expected one shape throughout; sample "
                "stage by stage"
            )
        if k + 1 < len(labels):
            recorder.keep(s)
        recorder.write("x", new)
        recorder.free(s)
        x = recorder.register("x")
    plan = Plan(
        f"{type(s).__name__}, as shipped",
        process,
        (*times, convention.end(s)),
        tuple(recorder.ops),
        tuple(recorder.starts),
        named_order(s),
        recorder.draws > 0,
    )
    whole = not torch.as_tensor(labels[0]).is_floating_point()
    told = TableLabels(
        as_time(times), as_time([float(each) for each in labels]), as_time(levels), convention.near(s), whole
    )
    return SchedulerPlan(plan, want, told, scale, scales), recorder.broken


def _distinct(time: float, label: float, times: list[float], labels: Sequence[Tensor]) -> float:
    """`time`, or next to it where a call before had another label there: two places of float32 away."""
    while any(time == t and label != float(told) for t, told in zip(times, labels, strict=False)):
        at = np.float32(time)
        for _ in range(2):
            at = np.nextafter(at, np.float32(np.inf))
        time = float(at)
    return time


def _network_answer(scales: Scales, t: float, x: Tensor, out: Tensor) -> Tensor:
    """F of `out` = c_skip x + c_out F."""
    skip, gain = scales.outputs(as_time(t))
    return (out - skip * x) / gain
