"""LearnedSolver and BestSoFar: what comes out of learning, and the best of it on held-out noise while it lasts."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...solvers import Guided, Model, Plan
from ...solvers.notebook import Shown
from ...solvers.per_step import PerStep
from ..latents.optimisation import Stop
from .gauss_newton import Features, GaussNewton, check_distances, teacher_distances
from .part import Draft, LearnedPart
from .student import Draws, Run, Student


@dataclass(frozen=True, eq=False, repr=False)
class LearnedSolver(Shown):
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


@dataclass(eq=False)
class BestSoFar:
    """The best draft so far, judged on held-out noise.

    Raises:
        FloatingPointError: a distance that is not finite, of the plan given.
    """

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
        check_distances(self.before)

    def begin(self, start: LearnedSolver) -> None:
        """Take `start` for the best where it is no worse than the plan given."""
        draft = Draft(start.plan, start.scale)
        found = self._judged(draft)
        if float(found.mean()) <= float(self.after.mean()):
            self.best, self.after, self.best_theta = draft, found, dict(start.theta)

    def stage(
        self,
        train: Draws,
        parts: list[LearnedPart],
        known: dict[LearnedPart, Tensor],
        steps: int,
        bar: Any,
        moved: Collection[LearnedPart] | None = None,
    ) -> tuple[Stop, dict[LearnedPart, Tensor]]:
        """Descend over `moved` of the parts together, all of them by default, from the numbers `known`: why it ended,
        and the numbers it ended at, which are not the best where the last steps helped in training alone.
        """
        student = Student(self.model, self.plan, parts)
        numbers = torch.arange(sum(student.sizes)).split(student.sizes)
        free = [
            k
            for p, each in zip(parts, numbers, strict=True)
            if moved is None or p in moved
            for k in each.tolist()
        ]
        descent = GaussNewton(student, train, self.features, student.theta(known), free)
        stop = Stop.STEPS
        try:
            self._offer(student, descent)
            for _ in range(steps):
                if not descent.step():
                    stop = Stop.STALLED
                    break
                self._offer(student, descent)
                bar.update()
                bar.set_postfix(train=f"{self.losses[-1][0]:.4g}", held_out=f"{self.losses[-1][1]:.4g}")
        finally:
            self.nfe += descent.calls * len(train.x)
        return stop, dict(zip(parts, descent.theta.split(student.sizes), strict=True))

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
