"""What learning begins with: noise, the teacher's samples of it, and all that is refused before the teacher runs."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from ...adjoint import sample
from ...adjoint.arguments import check_arguments
from ...solvers import Model, Plan
from ...solvers.kinds import check_kind, described
from ...solvers.loop import predict
from ...solvers.networks.shared import check_shared
from ...solvers.opening import carried
from ...solvers.per_step import PerStep
from ...solvers.program import prepare
from .best_so_far import BestSoFar, LearnedSolver
from .gauss_newton import Features
from .part import LearnedPart
from .steady import check_steady, drawing_nothing
from .student import Draws, Student


def prepared(
    what: str,
    denoiser: Model,
    plan: Plan,
    teacher: Plan,
    x: Tensor,
    parts: Sequence[LearnedPart],
    cond: Any,
    features: Features,
    held_out: int | None,
    start: LearnedSolver | None = None,
) -> tuple[BestSoFar, Draws]:
    """What is judged on, with the plan given for the best so far, and what is learned from; `what` is who asks.

    Raises:
        ValueError, TypeError, FloatingPointError: as `learn_solver` says.
    """
    check_arguments(denoiser, plan, x, cond=cond)
    check_kind("teacher", teacher, Plan, Plan.WANTED)
    _check_plans(what, plan, teacher, cond)
    kept = max(1, len(x) // 4) if held_out is None else held_out
    if kept >= len(x):
        raise ValueError(f"held_out: got {kept} of {len(x)} samples, expected fewer; pass more noise")
    if start is not None:
        _check_start(denoiser, plan, parts, start)
    check_steady(what, denoiser)
    check_shared(what, "rows that are learned from and rows held out are called apart", denoiser, x, cond)
    _ = Student(denoiser, plan, parts).sizes  # what does not fit the plan is refused before the teacher's run
    x = carried(x.detach())
    _check_features(features, x[len(x) - kept :])
    with drawing_nothing(what, x.device), torch.no_grad():
        call = next(prepare(plan, denoiser, x[:1]).calls())
        predict(denoiser, call, x[:1], _rows(cond, slice(1), len(x)))
    target = sample(denoiser, teacher, x, cond=cond, gradient=None)
    rows = slice(None, len(x) - kept), slice(len(x) - kept, None)
    train, held = (Draws(x[row], _rows(cond, row, len(x)), target[row]) for row in rows)
    best = BestSoFar(denoiser, plan, held, features)
    best.nfe += teacher.nfe * len(x)
    return best, train


def _check_plans(what: str, plan: Plan, teacher: Plan, cond: Any) -> None:
    for name, each in (("plan", plan), ("teacher", teacher)):
        if each.stochastic or each.slots:
            raise ValueError(
                f"{name}: got {each.name}, which draws noise, expected a deterministic plan; take DDIM() or "
                "DPMSolverPP(2)"
            )
        each.check_affine(what)
        if each.batch is not None or each.entry != ("x",):
            raise ValueError(f"{name}: got {each.name} with a grid for each sample or from more registers than x, "
                             "expected one grid and a whole plan; compile it anew")  # fmt: skip
    ends = [(each.times[0], each.times[-1]) for each in (plan, teacher)]
    if max(abs(a - b) for a, b in zip(*ends, strict=True)) > 1e-9:  # type: ignore[operator]
        raise ValueError(
            f"teacher: got a run from t={ends[1][0]} to {ends[1][1]}, expected the plan's {ends[0][0]} to "
            f"{ends[0][1]}; compile both on grids of the same ends"
        )
    if any(isinstance(leaf, PerStep) for leaf in tree_leaves(cond)):
        raise ValueError(
            "cond: got PerStep conditioning, expected one for all steps, since plan and teacher have different ones; "
            "learn the scale with LearnedScale()"
        )


def _check_features(features: Features, x: Tensor) -> None:
    with torch.no_grad():
        found = features(x)
    if not isinstance(found, Tensor) or found.ndim < 2 or len(found) != len(x):
        raise ValueError(
            f"features: got {described(found)} of {len(x)} samples, expected a tensor (B, ...) with an axis beside "
            "that of the samples; return a vector for each, x[:, None] where it is one number"
        )


def _check_start(denoiser: Model, plan: Plan, parts: Sequence[LearnedPart], start: LearnedSolver) -> None:
    """Raise ValueError for a result that these parts do not make again of this plan."""
    if lacking := [part for part in start.theta if part not in parts]:
        raise ValueError(
            f"start: got a result that has learned {lacking}, expected parts that are in learn, {list(parts)}; pass "
            "the same to learn"
        )
    student = Student(denoiser, plan, sorted(start.theta, key=lambda part: part.rank))
    theta = [start.theta[part] for part in student.parts]
    if [len(numbers) for numbers in theta] != student.sizes or student.draft(
        torch.cat([*theta, torch.zeros(0, dtype=torch.float64)])
    ).plan != start.plan:
        raise ValueError(
            f"start: got a result learned from another plan than {plan.name}, expected one of this plan and network; "
            "pass the plan that it was learned from"
        )


def _rows(cond: Any, rows: slice, batch: int) -> Any:
    """Those rows of every tensor of `cond` that has one for each sample."""
    return tree_map(
        lambda leaf: leaf[rows] if isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == batch else leaf,
        cond,
    )
