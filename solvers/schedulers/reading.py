"""plan_from_scheduler: a diffusers scheduler's own loop as a plan."""

import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from ..checked import checked
from ..kinds import described
from ..wanted import Count, Finite, Whole
from .convention import Convention
from .copying import copied
from .corrected import true_plan
from .found import SchedulerPlan
from .known import CONVENTIONS, REFUSED
from .playing import Playing


@checked
def plan_from_scheduler(
    scheduler: Any,
    num_inference_steps: Count | None = None,
    *,
    timesteps: Sequence[float] | Sequence[int] | np.ndarray | Tensor | None = None,
    sigmas: Sequence[float] | Sequence[int] | np.ndarray | Tensor | None = None,
    mu: Finite | None = None,
    begin: Whole = 0,
    turns: Count | None = None,
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
        turns: how many are made from there, as pipelines do that hand over to another; None: all that are left.
        corrected: the method of that name with the weights of its paper, on the same nodes, in place of what ships.
        options: further arguments of `set_timesteps` (`original_inference_steps`) and of `step` (`eta`, `s_churn`).

    Raises:
        ValueError: a scheduler that is no recurrence over one real state (the reason is named), or coefficients that
            are not finite. TypeError: not a scheduler; an option that neither method takes.

    Coefficients are float64 numbers of the scheduler's own arithmetic; where it computes them in float32 they have
    float32's accuracy, and where it rounds the state to float32 the plan does not. Cost: no network call.
    """
    convention = _convention(scheduler)
    if num_inference_steps is timesteps is sigmas is None:
        raise ValueError(
            "num_inference_steps: got none, nor timesteps or sigmas, expected one of them; write "
            "plan_from_scheduler(scheduler, 20)"
        )
    s = copied(scheduler)
    for name, value in vars(s).items():
        if isinstance(value, Tensor):
            setattr(s, name, value.cpu())
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
    if begin >= len(s.timesteps):
        raise ValueError(
            f"begin: got {begin}, expected less than the {len(s.timesteps)} turns of the loop; leave some"
        )
    if begin and hasattr(s, "set_begin_index"):
        s.set_begin_index(begin)
    playing = Playing(s, convention, options)
    found, broken = playing.found(begin, turns), playing.recorder.broken
    if corrected:
        return replace(
            found,
            plan=true_plan(s, found.process, convention.nodes(s)[begin:][: turns and turns + 1], options),
        )
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
        f"plan_from_scheduler: got {names[0]}, expected one of {sorted(CONVENTIONS)}, or a subclass of one; write "
        "its steps as a Method"
    )
