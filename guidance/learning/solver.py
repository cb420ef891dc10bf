"""`learn_solver`: the numbers of a plan of few calls, fitted to what a plan of many makes of the same noise."""

from collections.abc import Sequence
from typing import Any

import torch

from ...solvers import Model, Plan
from ...solvers.checked import checked
from ...solvers.kinds import check_kind
from ...solvers.progress import progress_bar
from ...solvers.wanted import Count, Samples
from ..latents.optimisation import Stop
from .best_so_far import LearnedSolver
from .factors import LearnedCoefficients
from .gauss_newton import Features
from .part import LearnedPart
from .setting import prepared
from .told_times import LearnedLabels


@checked
def learn_solver(
    denoiser: Model,
    plan: Plan,
    teacher: Plan,
    x: Samples,
    *,
    learn: Sequence[LearnedPart] = (LearnedCoefficients(), LearnedLabels()),
    cond: Any = None,
    features: Features = torch.nn.Identity(),
    held_out: Count | None = None,
    steps: Count = 20,
    start: LearnedSolver | None = None,
    progress: bool = True,
) -> LearnedSolver:
    """Learn numbers of `plan` so that from the same noise its samples are those of `teacher`:

        min over theta of  E_x |features(plan_theta(x)) - features(teacher(x))|,    |r| the root mean square

    by Levenberg-Marquardt on all of x that is not held out, first over the parts of lowest rank alone (times), then
    with each further one. After every step the distance on held-out noise is taken, and the best plan is kept: never
    one that is worse there than the one that was given.

    Args:
        plan: of few calls, deterministic, and `teacher` of many, from the same first to the same last time.
        x: (B, ...) noise at the first time; 32 to 64 draws did for digits and faces. cond: as for `sample`; tensors of
            B rows go with the rows of x. Labels that one plan should serve belong in it, each some times.
        learn: at most one each of `LearnedTimes(method)`, `LearnedCoefficients(...)`, `LearnedLabels()`,
            `LearnedScale()`.
        features: what of a sample is compared, (B, ...) to (B, ...): an embedding, a decoder.
        held_out: how many of x, the last ones, are not learned from; by default a quarter.
        steps: at most, in each of the stages. start: where an earlier run on this plan ended; the first
            stage has all parts that it has learned, and what is found is never worse than it.

    Returns:
        A `LearnedSolver`. Ctrl-C ends early with the best so far.

    Raises:
        ValueError: a stochastic plan (its samples follow their noise, not the teacher's), two plans between other
            times, PerStep conditioning, parts that do not fit the plan, a network in train mode with dropout or batch
            normalisation. FloatingPointError: a teacher that is not finite.

    Cost: B N teacher calls once; a step B (1 - held_out) sum_k (N - n_k) calls, with n_k the step of the plan that the
    k-th number enters at. No gradients: the network need not have any. Source of the setting: Shaul et al., arXiv
    2310.19075 and 2403.01329; S4S, arXiv 2502.17423; the method of optimisation is ours.
    """
    check_kind("learn", learn, (list, tuple), "a list of what is learned, such as [LearnedCoefficients()]")
    for part in learn:
        check_kind(
            "learn",
            part,
            LearnedPart,
            "parts, such as LearnedTimes(method), LearnedCoefficients() and LearnedLabels()",
        )
    parts = sorted(learn, key=lambda part: part.rank)
    if not parts or len({part.rank for part in parts}) < len(parts):
        raise ValueError(f"learn: got {list(learn)}, expected parts of different kinds; pass each once")
    best, train = prepared("learn_solver", denoiser, plan, teacher, x, parts, cond, features, held_out, start)
    known, first = {}, 1
    if start is not None:
        known = dict(start.theta)
        first = 1 + max((k for k, part in enumerate(parts) if part in known), default=0)
        best.begin(start)
    stop = Stop.STEPS
    try:
        with progress_bar(total=steps * (len(parts) + 1 - first), disable=not progress) as bar:
            for last in range(first, len(parts) + 1):  # never without what is known
                stop, _ = best.stage(train, parts[:last], known, steps, bar)
                known = dict(best.best_theta)
    except KeyboardInterrupt:
        stop = Stop.INTERRUPT
    return best.result(stop)
