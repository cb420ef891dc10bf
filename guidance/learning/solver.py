"""`learn_solver`: the numbers of a plan of few calls, fitted to what a plan of many makes of the same noise."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from ...adjoint import sample
from ...adjoint.arguments import check_arguments
from ...solvers import Guided, Model, Plan
from ...solvers.checked import checked
from ...solvers.kinds import check_kind, described
from ...solvers.loop import predict
from ...solvers.opening import carried
from ...solvers.per_step import PerStep
from ...solvers.program import prepare
from ...solvers.progress import progress_bar
from ...solvers.wanted import Count, Samples
from ..latents.optimisation import Stop
from .factors import LearnedCoefficients
from .gauss_newton import Features, GaussNewton, teacher_distances
from .part import Draft, LearnedPart
from .steady import check_steady, drawing_nothing
from .student import Draws, Run, Student
from .told_times import LearnedLabels


@dataclass(frozen=True, eq=False)
class LearnedSolver:
    """A learned plan, the best on held-out noise, and how it was found.

    Attributes:
        plan: an ordinary Plan for the denoiser's prediction. scale: (N,) learned guidance scales, or None.
        theta: the numbers of each part, by the part: `learn_solver(..., start=found)` goes on from there.
        before, after: (H,) distances of held-out samples to the teacher's, of the plan given and of this one.
        losses: (steps + 1, 2) mean distance, of training and of held-out noise.
        nfe: network calls of one sample each, teacher included. stop: why it ended.
    """

    plan: Plan
    scale: Tensor | None
    theta: dict[LearnedPart, Tensor]
    before: Tensor
    after: Tensor
    losses: Tensor
    nfe: int
    stop: Stop

    def cond(self, cond: Any) -> Any:
        """What `sample(denoiser, found.plan, x, cond=found.cond(cond))` takes: `cond` with the learned scales."""
        return cond if self.scale is None else Guided(cond, PerStep(self.scale))


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
    check_arguments(denoiser, plan, x, cond=cond)
    check_kind("teacher", teacher, Plan, Plan.WANTED)
    _check_plans(plan, teacher, cond)
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
    kept = max(1, len(x) // 4) if held_out is None else held_out
    if kept >= len(x):
        raise ValueError(f"held_out: got {kept} of {len(x)} samples, expected fewer; pass more noise")
    if start is not None:
        _check_start(denoiser, plan, parts, start)
    check_steady("learn_solver", denoiser)
    _ = Student(denoiser, plan, parts).sizes  # what does not fit the plan is refused before the teacher's run
    x = carried(x.detach())
    _check_features(features, x[len(x) - kept :])
    with drawing_nothing("learn_solver", x.device), torch.no_grad():
        call = next(prepare(plan, denoiser, x[:1]).calls())
        predict(denoiser, call, x[:1], _rows(cond, slice(1), len(x)))
    target = sample(denoiser, teacher, x, cond=cond, gradient=None)
    rows = slice(None, len(x) - kept), slice(len(x) - kept, None)
    train, held = (Draws(x[row], _rows(cond, row, len(x)), target[row]) for row in rows)
    learning = _Learning(denoiser, plan, held, features)
    learning.nfe += teacher.nfe * len(x)
    known, first = {}, 1
    if start is not None:
        known = dict(start.theta)
        first = 1 + max((k for k, part in enumerate(parts) if part in known), default=0)
        learning.begin(start)
    stop = Stop.STEPS
    try:
        with progress_bar(total=steps * (len(parts) + 1 - first), disable=not progress) as bar:
            for last in range(first, len(parts) + 1):  # never without what is known
                stop = learning.stage(train, parts[:last], known, steps, bar)
                known = dict(learning.best_theta)
    except KeyboardInterrupt:
        stop = Stop.INTERRUPT
    return learning.result(stop)


def _check_plans(plan: Plan, teacher: Plan, cond: Any) -> None:
    for name, each in (("plan", plan), ("teacher", teacher)):
        if each.stochastic or each.slots:
            raise ValueError(
                f"{name}: got {each.name}, which draws noise, expected a deterministic plan; take DDIM() or "
                "DPMSolverPP(2)"
            )
        each.check_affine("learn_solver")
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


@dataclass(eq=False)
class _Learning:
    """The best draft so far, judged on held-out noise."""

    model: Model
    plan: Plan
    held: Draws
    features: Features
    nfe: int = 0
    losses: list[tuple[float, float]] = field(default_factory=list)
    best_theta: dict[LearnedPart, Tensor] = field(default_factory=dict)
    best: Draft = field(init=False)
    before: Tensor = field(init=False)
    after: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.best = Draft(self.plan)
        self.before = self.after = self._judged(self.best)

    def begin(self, start: LearnedSolver) -> None:
        """Take `start` for the best where it is no worse than the plan given."""
        draft = Draft(start.plan, start.scale)
        found = self._judged(draft)
        if float(found.mean()) <= float(self.after.mean()):
            self.best, self.after, self.best_theta = draft, found, dict(start.theta)

    def stage(
        self, train: Draws, parts: list[LearnedPart], known: dict[LearnedPart, Tensor], steps: int, bar: Any
    ) -> Stop:
        """Descend over `parts` together, from the numbers `known`."""
        student = Student(self.model, self.plan, parts)
        start = [
            known.get(p, torch.zeros(n, dtype=torch.float64))
            for p, n in zip(parts, student.sizes, strict=True)
        ]
        descent = GaussNewton(student, train, self.features, torch.cat(start))
        try:
            self._offer(student, descent)
            for _ in range(steps):
                if not descent.step():
                    return Stop.STALLED
                self._offer(student, descent)
                bar.update()
                bar.set_postfix(train=f"{self.losses[-1][0]:.4g}", held_out=f"{self.losses[-1][1]:.4g}")
            return Stop.STEPS
        finally:
            self.nfe += descent.calls * len(train.x)

    def _offer(self, student: Student, descent: GaussNewton) -> None:
        draft = descent.run.draft
        found = self._judged(draft)
        self.losses.append((descent.loss, float(found.mean())))
        if float(found.mean()) <= float(self.after.mean()):
            pieces = descent.theta.split(student.sizes)
            self.best, self.after = draft, found
            self.best_theta = dict(zip(student.parts, pieces, strict=True))

    def _judged(self, draft: Draft) -> Tensor:
        run = Run.of(self.model, self.held, draft)
        self.nfe += run.calls * len(self.held.x)
        return teacher_distances(run.sample, self.held.target, self.features)

    def result(self, stop: Stop) -> LearnedSolver:
        losses = torch.tensor(self.losses, dtype=torch.float64)
        return LearnedSolver(
            self.best.plan, self.best.scale, self.best_theta, self.before, self.after, losses, self.nfe, stop
        )
