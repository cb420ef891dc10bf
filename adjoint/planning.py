"""plan_gradient: what every strategy would take of a run, before it is made."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..solvers import Model, Noise, Plan
from ..solvers.checked import checked
from ..solvers.kinds import check_kind
from ..solvers.packing import State
from ..solvers.wanted import Count, Positive
from .arguments import check_arguments, check_gradient
from .choosing.forecast import Limits
from .choosing.gradient_plan import GradientPlan, planned
from .given import Given
from .strategies.gradient import Gradient


@checked
def plan_gradient(
    denoiser: Model,
    plan: Plan,
    x: State | dict[str, State],
    *,
    cond: Any = None,
    noise: Noise | State | None = None,
    controls: State | None = None,
    coefficients: Tensor | None = None,
    memory: Count | None = None,
    deadline: Positive | None = None,
    calls: Count | None = None,
    others: Sequence[Gradient] = (),
) -> GradientPlan:
    """What every exact strategy would take of `sample(denoiser, plan, x, ...)` and its gradient; `Auto(memory,
    deadline, calls)` takes the fastest that fits.

        seconds = N (G + V) + (calls - N) F + own,     peak = what is kept + one VJP

    with F, G and V the seconds of a network call without a graph, with one, and of its VJP, measured at this batch, and
    what is kept counted from the plan. Medians of 3 to 15 rounds; the clock is the wall's. What was measured is kept
    as long as the network lives, by shapes, dtypes, device, modes and what requires grad.

    Args:
        denoiser, plan, x, cond, noise, controls, coefficients: as of `sample`; what requires grad there is what the
            gradient is taken at.
        memory: bytes above what is there before. deadline: seconds. calls: network calls forward.
        others: strategies to list beside the exact ones, such as `Continuous()` or `Truncated(3)`: they are other
            gradients and are never chosen.

    Returns:
        a table; `.strategy` is what `sample` would take, `.forecasts` the rows.

    Raises:
        ValueError: a plan with Apply instructions, sharded parameters, `torch.utils.checkpoint(use_reentrant=True)`:
            runs that cannot be measured a call at a time; from `.strategy`, where nothing fits. RuntimeError: a network
            that writes to its buffers (batch normalisation in train mode).
    Cost: of each network and batch once, 5 to 17 forward passes without a graph, 7 to 19 with one and 7 to 19 VJPs;
    the memory of two calls.
    """
    check_arguments(denoiser, plan, x, cond=cond, noise=noise, controls=controls, coefficients=coefficients)
    check_kind("others", others, (list, tuple), "a list of strategies, such as [Continuous()]")
    for other in others:
        check_gradient(other)
    given = Given.of(denoiser, plan, x, cond, noise, controls, coefficients)
    rollout = given.rollout(lambda step, x: None, ())
    return planned(rollout, given.registers, Limits(memory, deadline, calls), others)
