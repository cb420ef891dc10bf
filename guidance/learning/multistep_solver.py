"""`s4s`: linear multistep coefficients and times, learned in turns, from starts that may move in a ball."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...adjoint import Checkpoint, sample
from ...solvers import DPMSolverPP, Method, Model, Plan
from ...solvers.broadcast import per_sample
from ...solvers.checked import checked
from ...solvers.grid import Times as Grid
from ...solvers.grid import checked_times
from ...solvers.process import as_time
from ...solvers.progress import progress_bar
from ...solvers.wanted import Count, NonNegative, Samples
from ..latents.optimisation import Stop
from .best_so_far import BestSoFar, LearnedSolver
from .factors import Kept, LearnedCoefficients
from .gauss_newton import STEP, Features
from .part import Draft, LearnedPart
from .setting import prepared
from .student import Draws, Run, Student
from .times import LearnedTimes
from .told_times import LearnedLabels


@checked
def s4s(
    denoiser: Model,
    grid: Grid,
    teacher: Plan,
    x: Samples,
    *,
    method: Method = DPMSolverPP(2, cap=math.inf),
    order: Count = 3,
    radius: NonNegative = 0.0,
    rounds: Count = 3,
    cond: Any = None,
    features: Features = torch.nn.Identity(),
    held_out: Count | None = None,
    steps: Count = 5,
    progress: bool = True,
) -> LearnedSolver:
    """S4S-Alt: a linear multistep solver on data predictions,

        x_{i+1} = (sigma_{i+1}/sigma_i) x_i + sum_{j < order} b_ij D_{i-j}

    whose b are learned while the times stay, then its times and the times that the network is told while b stay, and so
    on. It is fitted from starts that may move,

        min over theta of  E_x min over |x' - x| <= radius sigma of |features(plan(x')) - features(teacher(x))|

    (norms are root mean squares, sigma that of the first time), so that a student need not do from x what it can do
    from beside it; judged, and kept, is what it does from x itself. In the manner of the paper, which the
    parametrisation, the turns and the ball are taken from: numbers here move by `learn_solver`'s steps in place of
    gradient descent, and x' by one step of steepest descent a turn, of the length that is best along it to first order.

    Args:
        grid, method: where learning begins, the method with its program's form fixed (cap=math.inf); one whose
            predictions are not of the data keeps its own, and its own factors of x.
        order: so many predictions enter a step. radius: in units of sigma; above 0 the network is differentiated.
        rounds: of two turns each. steps: at most, in a turn.
        teacher, x, cond, features, held_out: as for `learn_solver`.

    Returns:
        A `LearnedSolver`.

    Raises:
        ValueError: a grid of one step, and what `learn_solver` refuses.

    Cost: as `learn_solver`, and with a radius 2 runs of the plan and its gradient in x for each turn. Source: Frankel
    et al. 2025, arXiv 2502.17423; the ball is of Tong et al. 2024, arXiv 2405.15506.
    """
    plan = method.plan(denoiser.process, checked_times(grid, denoiser.process))
    if plan.steps < 2:
        raise ValueError(
            "s4s: got a grid of 1 step, expected 2 or more: half of the turns move the nodes between its ends; take "
            "learn_solver, whose default learns coefficients and labels"
        )
    times, factors, labels = LearnedTimes(method), LearnedCoefficients(order, Kept.STATE), LearnedLabels()
    parts: list[LearnedPart] = [times, factors, labels]
    best, train = prepared("s4s", denoiser, plan, teacher, x, parts, cond, features, held_out)
    turns: Sequence[set[LearnedPart]] = [{factors}, {times, labels}]
    student, sigma = Student(denoiser, plan, parts), float(plan.process.sigma(as_time(plan.times[0])))
    starts, known, stop = train.x, dict[LearnedPart, Tensor](), Stop.STEPS
    try:
        with progress_bar(total=rounds * len(turns) * steps, disable=not progress) as bar:
            for turn in range(rounds * len(turns)):
                if radius:
                    starts = _relaxed(
                        best, student.draft(student.theta(known)), train, starts, radius * sigma
                    )
                moved = turns[turn % len(turns)]
                stop, known = best.stage(replace(train, x=starts), parts, known, steps, bar, moved)
    except KeyboardInterrupt:
        stop = Stop.INTERRUPT
    return best.result(stop)


def _relaxed(best: BestSoFar, draft: Draft, train: Draws, starts: Tensor, radius: float) -> Tensor:
    """The starts after a step of x' <- x' - |g|^2/|J g|^2 g, g = J^T r, and back into the ball around train.x."""

    def residual(out: Tensor) -> Tensor:
        return best.features(out) - best.features(train.target)

    with torch.enable_grad():
        at = starts.detach().requires_grad_()
        out = residual(sample(best.model, draft.plan, at, cond=train.cond, gradient=Checkpoint()))
        (g,) = torch.autograd.grad(out, at, out.detach())
    size = g.flatten(1).square().mean(1).sqrt()
    step = STEP / size.clamp(min=1e-30)  # of a difference quotient along g
    there = residual(Run.of(best.model, replace(train, x=starts + per_sample(step, g) * g), draft).sample)
    bent = (there - out.detach()) / per_sample(step, out)
    best.nfe += 2 * draft.plan.nfe * len(starts)
    length = g.flatten(1).square().sum(1) / bent.flatten(1).square().sum(1).clamp(min=1e-30)
    away = starts - per_sample(length, g) * g - train.x
    far = away.flatten(1).square().mean(1).sqrt()
    return train.x + per_sample((radius / far.clamp(min=1e-30)).clamp(max=1.0), away) * away
