"""as_scheduler: a Method in the place of a pipeline's scheduler."""

import copy
import inspect
from dataclasses import dataclass
from functools import cache, wraps
from statistics import mode
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..checked import checked
from ..compiler import Method
from ..grid import Times, checked_times
from ..noise import GivenNoise, Noise
from ..process import EDM, as_time
from .conventions import Convention
from .corrected import limited
from .found import SchedulerPlan
from .pipeline_noise import Generators, PipelineNoise
from .playing import Playing
from .reading import convention_of, on_cpu
from .turns import Turn, Turns, Walk


@checked
def as_scheduler(
    method: Method, scheduler: Any, *, grid: Times | None = None, noise: Noise | Tensor | None = None
) -> Any:
    """A scheduler for an ordinary diffusers pipeline that steps `method`.

        pipe.scheduler = as_scheduler(DPMSolverPP(3), pipe.scheduler)
        image = pipe("a cat", num_inference_steps=20).images[0]

    Process, prediction, labels and noise levels are those of `scheduler`, whose class and configuration it keeps: it
    is an instance of a subclass made for it, is saved as what it stands for, and `from_config` gives that back.
    `num_inference_steps` counts steps, `timesteps` has one entry for each network call, as those of diffusers' Heun.
    Clipping and thresholding in the configuration go around `method` (`OnData`), unless it is an `OnData` already;
    what a network says of its variance is left out.

    Args:
        scheduler: pipe.scheduler, one that `plan_from_scheduler` reads and that steps (model_output, timestep, sample).
        grid: in times of its process; default: the nodes that the scheduler makes of what the pipeline passes
            (number of steps, timesteps, sigmas, mu), karras and shift included. One for that number of steps.
        noise: a source, or the draws (slots, B, ...). Default: drawn from the pipeline's `generator`, in the pipeline's
            dtype, in the order in which the plan asks; pipelines that pass none on (Flux, SD3) draw it from PyTorch's
            own, so give one there.

    Between two turns of the loop the scheduler holds the plan's registers, in float32 at least; `set_timesteps` lets
    go of them. What a pipeline makes of the state between turns (inpainting, callbacks) counts. Begin indices of image-
    to-image pipelines start the plan at that node.

    Raises:
        ValueError: a scheduler that is no such loop. From `set_timesteps`: a method that its process does not fit,
            that churns before the first call, or asks for variances; a grid of another number of steps. From `step`:
            turns left out or repeated, a start inside a step, options of the scheduler's own method (`eta`, `s_churn`).

    Cost: the network calls of the plan; in `set_timesteps` 10 to 30 ms.
    """
    convention_of(scheduler)
    base = getattr(type(scheduler), "_base", type(scheduler))
    taken = list(inspect.signature(base.step).parameters)[1:4]
    if taken != ["model_output", "timestep", "sample"]:
        raise ValueError(
            f"as_scheduler: got {base.__name__}, whose step takes {', '.join(taken)}, expected model_output, timestep, "
            "sample; give the pipeline a scheduler of another class first"
        )
    made = _rebuilt(base)
    vars(made).update(copy.deepcopy({k: v for k, v in vars(scheduler).items() if k not in OURS}))
    made._asked = Asked(method, grid, GivenNoise(noise) if isinstance(noise, Tensor) else noise)
    return made


class Stepped(NamedTuple):
    """What `step` returns, with `return_dict` or without. The data prediction is None where the network's answer does
    not determine it.
    """

    prev_sample: Tensor
    pred_original_sample: Tensor | None


@dataclass(frozen=True, eq=False)
class Asked:
    """What the user asked for."""

    method: Method
    grid: Times | None
    noise: Noise | None


@dataclass(frozen=True, eq=False)
class Loop:
    """The turns of the loop that `set_timesteps` laid out.

    Attributes:
        scale: of the starting noise.
        order: network calls of most steps, by which pipelines count.
    """

    found: SchedulerPlan
    turns: tuple[Turn, ...]
    method: Method
    scale: float
    order: int
    whole: Turns


OURS = ("_asked", "_loop", "_walk", "_labels")


class InPlace:
    """What goes before the scheduler's own class in the bases of a drop-in (`_class_for`)."""

    _base: type
    _asked: Asked
    _loop: Loop | None = None
    _walk: Walk | None = None
    _step_index: int | None = None
    _begin_index: int | None = None
    timesteps: Tensor

    def __repr__(self) -> str:
        return f"as_scheduler({self._asked.method}, {super().__repr__()})"

    def __reduce__(self) -> Any:
        return _rebuilt, (self._base,), dict(vars(self))

    @property
    def order(self) -> int:
        """Network calls of a step."""
        return 1 if self._loop is None else self._loop.order

    @property
    def init_noise_sigma(self) -> Any:
        """The factor on the starting noise."""
        return self._own().init_noise_sigma if self._loop is None else self._loop.scale

    @property
    def step_index(self) -> int | None:
        """Network calls so far, those before `begin_index` included; None before the first."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """The call that the pipeline starts with, where it said so."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Start with that entry of `timesteps`."""
        self._begin_index = begin_index

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """c_in x, as the network is to be shown."""
        c_in = self._turn(self.timesteps[0] if timestep is None else timestep).c_in
        return sample if c_in == 1.0 else sample * c_in

    def _set(self, *args: Any, **kwargs: Any) -> None:
        own = self._own()
        own.set_timesteps(*args, **kwargs)
        s, convention = on_cpu(own), convention_of(own)
        labels = convention.labels(s)
        if len(labels) != len(s.timesteps):
            raise ValueError(
                f"as_scheduler: got {self._base.__name__}, whose pipelines leave out some of its timesteps, expected a "
                "turn for each; take another scheduler"
            )
        loop = _laid_out(self._asked, s, convention)
        vars(self).update(vars(own))
        levels = [turn.level for turn in loop.turns]
        self._labels = [turn.label for turn in loop.turns]
        self.timesteps = torch.tensor(self._labels, dtype=torch.float64).to(own.timesteps)
        if isinstance(getattr(own, "sigmas", None), Tensor):
            self.sigmas = torch.tensor([*levels, loop.whole.plan.times[-1]], dtype=torch.float64).to(
                own.sigmas
            )
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
        turn = self._turn(timestep)
        if options:
            self._check(options)
        walk, loop = self._walk, self._loop
        assert walk is not None and loop is not None and self._step_index is not None
        if isinstance(walk.noise, PipelineNoise):
            walk.noise.generator, walk.noise.dtype = generator, sample.dtype
        if loop.found.calling is not None and model_output.shape[1] == 2 * sample.shape[1]:
            model_output = model_output[:, : sample.shape[1]]  # a variance stands behind it
        if model_output.shape != sample.shape:
            raise ValueError(
                f"step: got model_output {tuple(model_output.shape)}, expected {tuple(sample.shape)}, that of sample; "
                "pass the prediction alone"
            )
        made = Stepped(*walk.take(turn, model_output, sample))
        self._step_index += 1
        return made

    def _own(self) -> Any:
        """The scheduler that it stands for, as it is now."""
        own = object.__new__(self._base)
        vars(own).update({name: value for name, value in vars(self).items() if name not in OURS})
        return own

    def _turn(self, timestep: Any) -> Turn:
        """The turn of the loop that `timestep` belongs to, which must be the next."""
        if self._loop is None:
            raise ValueError("step: got no timesteps, expected them set; call set_timesteps(20) first")
        if self._walk is None:
            self._begin(timestep)
        k, turns = self._step_index, self._loop.turns
        assert k is not None
        if k >= len(turns):
            raise ValueError(
                f"step: got a turn after the last of {len(turns)}, expected none; call set_timesteps for another run"
            )
        if not self._is(timestep, k):
            raise ValueError(
                f"step: got timestep {float(torch.as_tensor(timestep).flatten()[0]):g}, expected "
                f"{self._labels[k]:g}, number {k} of {len(turns)}: turns are taken one by one, since the method "
                "remembers; call set_timesteps for another run"
            )
        return turns[k]

    def _is(self, timestep: Any, k: int) -> bool:
        """Whether `timestep` is entry k of `timesteps`: by where it lies, for its value would make the host wait."""
        own = self.timesteps
        if isinstance(timestep, Tensor) and timestep.data_ptr() == own.data_ptr() + k * own.element_size():
            return True
        value = float(timestep.flatten()[0]) if isinstance(timestep, Tensor) else float(timestep)
        return abs(value - float(own[k])) <= 1e-6 * max(1.0, abs(value))

    def _begin(self, timestep: Any) -> None:
        loop = self._loop
        assert loop is not None
        k = self._begin_index
        if k is None:
            opening = [k for k, turn in enumerate(loop.turns) if turn.opens and self._is(timestep, k)]
            k = opening[0] if opening else 0
        turns = loop.whole
        if k:
            turns = _begun(loop, k)
            self._loop = _replaced(loop, (*loop.turns[:k], *turns.turns))
        noise = self._asked.noise
        self._walk, self._step_index = (
            Walk(turns, PipelineNoise.of(turns.plan) if noise is None else noise),
            k,
        )

    def _check(self, options: dict[str, Any]) -> None:
        """Raise ValueError for what the replaced scheduler's method would have been told."""
        known = inspect.signature(self._base.step).parameters  # type: ignore[attr-defined]
        for name, value in options.items():
            if name not in known:
                raise TypeError(f"step: got an unexpected argument {name!r}; leave it out")
            if name != "prev_timestep" and value is not known[name].default and value != known[name].default:
                raise ValueError(
                    f"step: got {name}={value!r} for {self._asked.method}, expected {known[name].default!r}: that is "
                    f"an option of {self._base.__name__}; give it to the method"
                )


def _laid_out(asked: Asked, s: Any, convention: Convention) -> Loop:
    """Of a scheduler whose times are set, and which is a copy."""
    times = convention.nodes(s)
    nodes = [t for k, t in enumerate(times) if not k or t != times[k - 1]]
    method = limited(asked.method, s.config)
    found = Playing(s, convention, {}).found(0)
    scale = found.scale
    if asked.grid is None:
        plan = method.along(found.process, nodes)
    else:
        plan = method.plan(found.process, asked.grid)
        if plan.steps != len(nodes) - 1:
            raise ValueError(
                f"num_inference_steps: got {len(nodes) - 1}, expected the grid's {plan.steps}; ask for as many"
            )
        if isinstance(found.process, EDM):
            scale *= float(checked_times(asked.grid, found.process)[0]) / nodes[0]
    whole = Turns.of(plan, found)
    calls = [sum(turn.call.step == k for turn in whole.turns) for k in range(plan.steps)]
    return Loop(found, whole.turns, method, scale, mode([n for n in calls if n]), whole)


def _begun(loop: Loop, k: int) -> Turns:
    """The plan from the node where call k is the first on."""
    turn, plan = loop.turns[k], loop.whole.plan
    if not turn.opens:
        raise ValueError(
            f"begin: got network call {k}, which is inside step {turn.call.step} of {plan.name}, expected the first of "
            "a step; choose a strength or number of steps that gives one"
        )
    start = Turns.of(loop.method.along(plan.process, as_time(plan.times[turn.call.step :])), loop.found)
    if [each.label for each in start.turns] != [each.label for each in loop.turns[k:]]:
        raise ValueError(
            f"begin: got {plan.name} from its step {turn.call.step}, which starts by other network calls than the whole "
            "run has there, expected the same; take a method of one step, or with one call a step"
        )
    return start


def _replaced(loop: Loop, turns: tuple[Turn, ...]) -> Loop:
    return Loop(loop.found, turns, loop.method, loop.scale, loop.order, loop.whole)


@cache
def _class_for(base: type) -> type:
    """The subclass of a scheduler's class: `InPlace` first. Named as it, so that a pipeline saves it as that."""

    @wraps(base.set_timesteps)  # type: ignore[attr-defined]
    def set_timesteps(self: Any, *args: Any, **kwargs: Any) -> None:
        self._set(*args, **kwargs)

    @wraps(base.step)  # type: ignore[attr-defined]
    def step(self: Any, *args: Any, **kwargs: Any) -> Stepped:
        return self._stepped(*args, **kwargs)

    # pipelines look there for what they may pass
    known = inspect.signature(base.step)  # type: ignore[attr-defined]
    generator = inspect.Parameter("generator", inspect.Parameter.KEYWORD_ONLY, default=None)
    if "generator" not in known.parameters:
        step.__signature__ = known.replace(parameters=[*known.parameters.values(), generator])  # type: ignore[attr-defined]
    inside = {
        "_base": base,
        "set_timesteps": set_timesteps,
        "step": step,
        "from_config": base.from_config,  # type: ignore[attr-defined]
        "__module__": base.__module__,
        "__doc__": base.__doc__,
    }
    return type(base.__name__, (InPlace, base), inside)


def _rebuilt(base: type) -> Any:
    """An empty drop-in."""
    return object.__new__(_class_for(base))
