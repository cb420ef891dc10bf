"""`bespoke`: Euler or midpoint steps in a scale and a clock that are learned from a teacher."""

from typing import Any

import torch

from ...solvers import DDIM, Model, Plan
from ...solvers.checked import checked
from ...solvers.grid import Times as Grid
from ...solvers.grid import checked_times
from ...solvers.wanted import Count, Samples
from .best_so_far import LearnedSolver
from .gauss_newton import Features
from .part import Draft
from .scale_time import LearnedScaleTime, OneOrTwo
from .solver import learn_solver


@checked
def bespoke(
    denoiser: Model,
    grid: Grid,
    teacher: Plan,
    x: Samples,
    *,
    order: OneOrTwo = 2,
    cond: Any = None,
    features: Features = torch.nn.Identity(),
    held_out: Count | None = None,
    steps: Count = 20,
    progress: bool = True,
) -> LearnedSolver:
    """A Bespoke solver: RK1 (`order=1`, N calls) or RK2 (`order=2`, 2 N calls) on N steps, in s_r x(t_r) with s and t
    learned, `LearnedScaleTime(order)`. It has few numbers, 4 N - 1 or 8 N - 1, and remembers nothing between its steps.

    The parametrisation is the paper's; the loss is `learn_solver`'s, the distance at the end of the run, where the
    paper sums a bound on it over the steps, each from the teacher's own state.

    Args:
        grid: N steps, where learning begins: at DDIM (order 1) or the midpoint rule (order 2).
        teacher, x, cond, features, held_out, steps: as for `learn_solver`.

    Returns:
        A `LearnedSolver`.

    Raises:
        ValueError: a rising grid, one for each sample, and what `learn_solver` refuses.

    Cost: as `learn_solver`. Source: Shaul et al. 2023, arXiv 2310.19075.
    """
    process, times = denoiser.process, checked_times(grid, denoiser.process)
    if times.ndim != 1:
        raise ValueError(
            f"bespoke: got a grid {tuple(times.shape)} for each sample, expected one (N+1,); pass one"
        )
    part, given = LearnedScaleTime(order), Draft(DDIM().along(process, times))
    nought = torch.zeros(part.size(given, denoiser), dtype=torch.float64)
    plan = part.applied(given, nought, denoiser).plan
    return learn_solver(
        denoiser, plan, teacher, x, learn=[part], cond=cond, features=features, held_out=held_out, steps=steps,
        progress=progress,
    )  # fmt: skip
