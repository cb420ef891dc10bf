"""as_scheduler: a Method in the place of a pipeline's scheduler."""

import copy
import inspect
import sys
from dataclasses import fields, replace
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..checked import checked
from ..compiler import Method
from ..grid import Times
from ..kinds import described
from ..noise import GivenNoise, Noise
from .found import SchedulerPlan
from .known import convention_of, on_cpu
from .laid_out import Asked, LaidOut
from .pipeline_noise import Generators, PipelineNoise
from .stretches import HeldRun, Stretch

OURS = ("_asked", "_loop", "_walk", "_step_index", "_begin_index", "set_timesteps", "scale_model_input")


@checked
def as_scheduler(
    method: Method, scheduler: Any, *, grid: Times | None = None, noise: Noise | Tensor | None = None
) -> Any:
    """A scheduler for an ordinary diffusers pipeline that steps `method`.

        pipe.scheduler = as_scheduler(DPMSolverPP(3), pipe.scheduler)
        image = pipe("a cat", num_inference_steps=20).images[0]

    Process, prediction, labels and noise levels are those of `scheduler`, whose class and configuration it keeps: it
    is an instance of a subclass made for it, is saved as what it stands for, and `from_config` gives that back.
    `num_inference_steps` counts steps; `timesteps` has one entry for each network call, as those of diffusers' Heun.
    Clipping and thresholding in the configuration go around `method` (`OnData`), unless it is an `OnData` already;
    what a network says of its variance is left out.

    Args:
        scheduler: pipe.scheduler: one that `plan_from_scheduler` reads, whose step takes (model_output, timestep,
            sample).
        grid: in times of its process, for one number of steps; default: the nodes that the scheduler makes of what the
            pipeline passes (number of steps, timesteps, sigmas, mu), karras and shift included.
        noise: a source, or the draws (slots, B, ...). Default: drawn from the pipeline's `generator`, in the pipeline's
            dtype, in the order in which the plan asks. Pipelines that hand none on (Flux, SD3) leave it to PyTorch's
            own generator: give a source there.

    Between two turns of the loop it holds the plan's registers, in float32 at least; `set_timesteps` lets go of them.
    What a pipeline makes of the state between turns (inpainting, callbacks) counts. Where an image-to-image pipeline
    begins, the plan begins: without a history.

    Raises:
        ValueError: a scheduler that is no such loop. In `set_timesteps`: a method that its process does not fit, that
            churns before the first call or asks for a variance, or a grid of another number of steps. In `step`:
            turns left out or repeated, a start inside a step, options of the scheduler's own method (`eta`, `s_churn`).

    Cost: the plan's network calls; 10 to 30 ms in `set_timesteps`.
    """
    convention_of(scheduler)
    base = getattr(type(scheduler), "_base", type(scheduler))
    taken = list(inspect.signature(base.step).parameters)[1:4]
    if taken != ["model_output", "timestep", "sample"]:
        raise ValueError(
            f"as_scheduler: got {base.__name__}, whose step takes {', '.join(taken)}, expected model_output, timestep, "
            "sample; give the pipeline a scheduler of another class first"
        )
    made = _empty(base)
    vars(made).update(copy.deepcopy({k: v for k, v in vars(scheduler).items() if k not in OURS}))
    made._asked = Asked(method, grid, GivenNoise(noise) if isinstance(noise, Tensor) else noise)
    return made


class Stepped(NamedTuple):
    """What `step` returns, with `return_dict` or without. The data prediction is None where the scheduler replaced
    returns none, and where the network's answer does not determine it.
    """

    prev_sample: Tensor
    pred_original_sample: Tensor | None


class InPlace:
    """What comes before the scheduler's own class in a drop-in (`_class_for`)."""

    _base: type
    _options: dict[str, Any]  # of the step that it stands for, and their defaults
    _with_data: bool  # whether that step returns the data prediction too
    _asked: Asked
    _loop: LaidOut | None = None
    _walk: HeldRun | None = None
    _step_index: int | None = None
    _begin_index: int | None = None
    timesteps: Tensor

    def __repr__(self) -> str:
        return f"as_scheduler({self._asked.method}, {super().__repr__()})"

    def __reduce__(self) -> Any:
        return _empty, (self._base,), dict(vars(self))

    @property
    def order(self) -> int:
        """Network calls of a step."""
        return 1 if self._loop is None else self._loop.order

    @property
    def init_noise_sigma(self) -> Any:
        """The factor on the starting noise."""
        return self._own().init_noise_sigma if self._loop is None else self._loop.found.scale

    @property
    def step_index(self) -> int | None:
        """The next entry of `timesteps`; None before the first turn."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """The entry that the pipeline starts with, where it said so."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Start with that entry of `timesteps`."""
        self._begin_index = begin_index

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """c_in x: what the network is to be shown."""
        c_in = self._next(timestep).c_in
        return sample if c_in == 1.0 else sample * c_in

    def found(self, begin: int = 0) -> SchedulerPlan:
        """The plan that it steps, and what the network is told: after `set_timesteps`."""
        loop = self._laid_out()
        return replace(loop.found, plan=loop.begun(begin).run.plan)

    def _set(self, *args: Any, **kwargs: Any) -> None:
        own = self._own()
        own.set_timesteps(*args, **kwargs)
        loop = LaidOut.of(self._asked, on_cpu(own))
        vars(self).update(vars(own))
        labels = [each.label for each in loop.calls]
        self.timesteps = torch.tensor(labels, dtype=torch.float64).to(own.timesteps)
        if isinstance(getattr(own, "sigmas", None), Tensor):
            levels = [*(each.level for each in loop.calls), loop.found.plan.times[-1]]
            self.sigmas = torch.tensor(levels, dtype=torch.float64).to(own.sigmas)
        self._loop, self._walk, self._step_index, self._begin_index = loop, None, None, None

    def _stepped(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        *,
        generator: Generators = None,
        return_dict: bool = True,
        **options: Any,
    ) -> Stepped:
        stretch = self._next(timestep)
        self._check(options)
        walk, loop = self._walk, self._loop
        assert walk is not None and loop is not None and self._step_index is not None
        if isinstance(walk.noise, PipelineNoise):
            walk.noise.draw_from(generator, sample.dtype)
        elif walk.registers is None and walk.noise is not None:
            walk.noise.check(loop.run.plan.slots, sample)
        if loop.found.calling is not None and model_output.shape[1] == 2 * sample.shape[1]:
            model_output = model_output[:, : sample.shape[1]]  # a variance stands behind it
        if model_output.shape != sample.shape:
            raise ValueError(
                f"step: got model_output {tuple(model_output.shape)}, expected {tuple(sample.shape)}, that of sample; "
                "pass the prediction alone"
            )
        made = Stepped(*walk.take(stretch, model_output, sample, self._with_data))
        self._step_index += 1
        return made

    def _own(self) -> Any:
        """The scheduler that it stands for, as it is now."""
        own = object.__new__(self._base)
        vars(own).update({name: value for name, value in vars(self).items() if name not in OURS})
        return own

    def _laid_out(self) -> LaidOut:
        if self._loop is None:
            raise ValueError(
                f"as_scheduler({self._asked.method}): got a turn before any timesteps, expected them set; call "
                "set_timesteps(20)"
            )
        return self._loop

    def _next(self, timestep: Any) -> Stretch:
        """The next turn of the loop, to which `timestep` must belong."""
        loop = self._laid_out()
        if self._walk is None:
            loop = self._begin(loop, timestep)
        k, calls = self._step_index, loop.calls
        assert k is not None
        if k >= len(calls):
            raise ValueError(
                f"step: got a turn after the last of {len(calls)}, expected none; call set_timesteps for another run"
            )
        if timestep is not None and not self._is(timestep, k, calls[k].label):
            raise ValueError(
                f"step: got timestep {_number(timestep):g}, expected {calls[k].label:g}, number {k} of {len(calls)}: "
                "turns come one by one, since the method remembers; call set_timesteps for another run"
            )
        return calls[k]

    def _is(self, timestep: Any, k: int, label: float) -> bool:
        """Whether `timestep` is entry k of `timesteps`: by where it lies, for to look at it makes the host wait."""
        own = self.timesteps
        if isinstance(timestep, Tensor) and timestep.data_ptr() == own.data_ptr() + k * own.element_size():
            return True
        return _near(_number(timestep), label)

    def _begin(self, loop: LaidOut, timestep: Any) -> LaidOut:
        k = self._begin_index
        if k is None and (timestep is None or self._is(timestep, 0, loop.calls[0].label)):
            k = 0
        elif k is None:
            value = _number(timestep)
            k = next((k for k, each in enumerate(loop.calls) if _near(value, each.label)), 0)
        self._loop = loop = loop.begun(k)
        noise = PipelineNoise.of(loop.run.plan) if self._asked.noise is None else self._asked.noise
        self._walk, self._step_index = HeldRun(loop.run.opening, noise), k
        return loop

    def _check(self, options: dict[str, Any]) -> None:
        """Raise ValueError for what the replaced scheduler's own method would have been told, TypeError for what not
        even that.
        """
        for name, value in options.items():
            if name not in self._options:
                raise TypeError(f"step: got an unexpected argument {name!r}, expected none; leave it out")
            none = value is None or isinstance(value, int | float) and value in (0, self._options[name])
            if not none and name != "prev_timestep":
                raise ValueError(
                    f"step: got {name}={described(value)}, an option of {self._base.__name__}, expected none for "
                    f"{self._asked.method}; give it to the method"
                )


@cache
def _class_for(base: type) -> type:
    """The subclass of a scheduler's class. Named as it, so that a pipeline saves it as that."""

    def set_timesteps(self: Any, *args: Any, **kwargs: Any) -> None:
        self._set(*args, **kwargs)

    def step(self: Any, *args: Any, **kwargs: Any) -> Stepped:
        return self._stepped(*args, **kwargs)

    # pipelines look into the signatures for what they may pass
    for mine, theirs in ((set_timesteps, base.set_timesteps), (step, base.step)):  # type: ignore[attr-defined]
        mine.__doc__, mine.__signature__ = theirs.__doc__, inspect.signature(theirs)  # type: ignore[attr-defined]
    known = inspect.signature(step)
    if "generator" not in known.parameters:
        generator = inspect.Parameter("generator", inspect.Parameter.KEYWORD_ONLY, default=None)
        more = known.replace(parameters=[*known.parameters.values(), generator])
        step.__signature__ = more  # type: ignore[attr-defined]
    outputs = [
        each for name, each in vars(sys.modules[base.__module__]).items() if name.endswith("SchedulerOutput")
    ]
    inside = {
        "_base": base,
        "_with_data": any(len(fields(each)) > 1 for each in outputs),
        "_options": {name: each.default for name, each in known.parameters.items()},
        "set_timesteps": set_timesteps,
        "step": step,
        "from_config": base.from_config,  # type: ignore[attr-defined]
        "__module__": base.__module__,
        "__doc__": base.__doc__,
    }
    return type(base.__name__, (InPlace, base), inside)


def _empty(base: type) -> Any:
    """A drop-in that knows nothing yet."""
    return object.__new__(_class_for(base))


def _number(timestep: Any) -> float:
    return float(timestep.flatten()[0]) if isinstance(timestep, Tensor) else float(timestep)


def _near(value: float, label: float) -> bool:
    return abs(value - label) <= 1e-6 * max(1.0, abs(label))
