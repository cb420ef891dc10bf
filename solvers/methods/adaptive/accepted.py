"""Steps chosen by an error estimate, to be frozen into a plan."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...checked import checked
from ...model import Model
from ...notebook import Shown
from ...opening import carried, check_state
from ...packing import State, packing_of
from ...path import Path, PathNoise
from ...plan import Plan
from ...wanted import Count, Finite, NonNegative, Positive, Samples
from .embedded import EmbeddedPair
from .exponential_heun import ExponentialHeun
from .search import Search
from .side_by_side import side_by_side
from .step_control import IntegralControl, StepControl


@dataclass(frozen=True, eq=False, repr=False)
class Accepted(Shown):
    """The steps that an error estimate accepted, sample by sample.

    Attributes:
        plan: of the pair's method on these steps: from x to `state`. An ordinary plan: one grid for each sample, in
            which those that need fewer steps wait in steps that do nothing; of a batch of one, a plain plan.
        noise: for a pair with noise, the path on that plan.
        grids: (N_b + 1,) float64 times of each sample b.
        state: where the search itself arrived, without a graph: the sample, if no gradient is wanted.
        attempts, calls: (B,) of each sample, as it would have been alone; rejected = attempts - N_b.
        batch_calls: network calls that were made, of the whole batch.
    """

    plan: Plan
    noise: PathNoise | None
    grids: tuple[Tensor, ...]
    state: State
    attempts: Tensor
    calls: Tensor
    batch_calls: int

    @property
    def rejected(self) -> Tensor:
        """(B,) attempts that were not accepted."""
        return self.attempts - torch.tensor([len(grid) - 1 for grid in self.grids])

    @property
    def times(self) -> Tensor:
        """(N+1, B) float64 for `method.plan(process, times)` with any method: samples with fewer steps than N have
        their last ones halved in t, as often as it takes.
        """
        most = max(len(grid) for grid in self.grids)
        return torch.stack([_halved(grid, most) for grid in self.grids], 1)


def _halved(grid: Tensor, length: int) -> Tensor:
    """`grid` with its last steps halved, one after the other from the end, until it has `length` nodes."""
    while len(grid) < length:
        low = max(0, len(grid) - 1 - (length - len(grid)))
        middle = (grid[low:-1] + grid[low + 1 :]) / 2
        grid = torch.cat([grid[: low + 1], torch.stack([middle, grid[low + 1 :]], 1).flatten()])
    return grid


@checked
def adapt(
    model: Model,
    x: State,
    pair: EmbeddedPair,
    start: Finite,
    end: Finite,
    *,
    rtol: NonNegative = 0.05,
    atol: Positive = 0.0078,
    noise: Path | None = None,
    cond: Any = None,
    control: StepControl | None = None,
    first: Positive | None = None,
    least: NonNegative = 1e-7,
    most: Count = 1000,
    callback: Callable[[int, Tensor, State], None] | None = None,
) -> Accepted:
    """The steps from `start` to `end` that `pair` accepts for x, each sample by itself, as a plan.

        found = adapt(denoiser, x, AdaptiveDPM(3), 1.0, 0.02, rtol=1e-2, atol=1e-3)
        sample(denoiser, found.plan, x).square().sum().backward()

    Step sizes are constants under differentiation: the gradient is that of the plan on the accepted steps, exact
    under every exact strategy, and how the steps would move with x is left out, as it should be: that part of the
    derivative is of the size of the error that was tolerated.

    Args:
        x: (B, ...) at `start`, or any nesting of such tensors: the error of a sample is then over all its leaves.
        start, end: finite lambda at both.
        rtol, atol: of one step; the defaults are k-diffusion's, atol that of images in [-1, 1].
        noise: for a pair with noise, a path in lambda, such as `Brownian(seed, low, high, depth=30)`, whose lattice
            must be finer than the smallest step.
        control: default, the pair's.
        first: first step, a share of the way; default, the pair's.
        least: smallest step, as a share of the way. most: bound on attempts.
        callback: told (attempt, times (B,), a copy of x) after each attempt.

    Raises:
        ValueError: an infinite end, no path, a rising grid with noise, PerStep conditioning (steps are not known).
        FloatingPointError: a step that is not finite; sample and time are named.
        RuntimeError: more than `most` attempts, a step below `least`.

    Cost: `pair.calls` network calls of the whole batch an attempt, until its slowest sample has arrived.
    """
    packing = packing_of(x)
    packed = carried(packing.pack(x))
    check_state(packed)
    if not len(packed):
        raise ValueError("x: got an empty batch, expected samples to find steps for; pass one at least")
    told = None
    if callback is not None:
        told = lambda attempt, times, state: callback(attempt, times, packing.unpack(state))  # noqa: E731
    search = Search(
        packing.model(model), pair, float(start), float(end), float(rtol), float(atol), control or pair.control,
        first or pair.first, least, most, cond, noise, told, "adapt",
    )  # fmt: skip
    found = search.run(packed)
    plans = [pair.method.along(model.process, grid) for grid in found.grids]
    plan = side_by_side(plans)
    return Accepted(
        plan,
        noise.on(plan) if noise is not None and plan.slots else None,
        found.grids,
        packing.unpack(found.x),
        found.attempts,
        found.calls,
        found.batch_calls,
    )


@checked
def accepted_times(
    model: Model,
    x: Samples,
    start: Finite,
    end: Finite,
    *,
    rtol: NonNegative = 1e-2,
    atol: Positive = 1e-2,
    cond: Any = None,
    first: Positive = 0.1,
    most: Count = 1000,
) -> Tensor:
    """(N+1,) float64 times that an adaptive exponential Heun 2(1) accepts from `start` to `end`: one grid for all.

    Steps in lambda; the error of a step is the second-order correction, as root mean square over each sample
    in units of atol + rtol |x|, the worst sample deciding: `adapt` gives every sample its own. Freeze the times
    into any method's plan: the way back, and every replay, then takes the very same steps, which a solver that
    chooses its steps anew does not.

    Args:
        start, end: finite lambda at both; falling or rising.
        first: first step in lambda. most: bound on attempts.

    Raises:
        ValueError: an infinite end. RuntimeError: more than `most` attempts.
    Cost: 2 network calls an attempt.
    """
    search = Search(
        model, ExponentialHeun(), float(start), float(end), float(rtol), float(atol), IntegralControl(),
        first, 0.0, most, cond, None, None, "accepted_times", together=True,
    )  # fmt: skip
    return search.run(x).grids[0]
