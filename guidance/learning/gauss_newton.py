"""Levenberg-Marquardt on a student's numbers: few of them, many residuals, and no gradient of the network."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import torch
from torch import Tensor

from ...solvers import Model
from ...solvers.wanted import Wanted
from .student import Draws, Run, Student, same_form

Features = Annotated[
    Callable[[Tensor], Tensor], Wanted("a function of samples; leave it out for the samples themselves")
]

STEP = 1e-3  # of a difference quotient, in units of theta: a float32 sample has 1e-4 of noise in it then
FIRST, LEAST, FACTOR = 1e-3, 1e-9, 5.0  # damping to begin with, its floor, and its change
TRIES = 6  # dampings tried in one step


def teacher_distances(sample: Tensor, target: Tensor, features: Features) -> Tensor:
    """(B,) root mean square of features(sample) - features(target)."""
    return _residual(sample, target, features).square().mean(1).sqrt()


def _residual(sample: Tensor, target: Tensor, features: Features) -> Tensor:
    return (features(sample) - features(target)).flatten(1).double()


@dataclass(eq=False)
class GaussNewton:
    """Descends sum_b |r_b(theta)|, r_b the residual of sample b: each step solves

        (A + mu diag A) d = -g,   A = sum_b J_b^T J_b / |r_b|,   g = sum_b J_b^T r_b / |r_b|

    with J by forward differences, of which each runs only from the first step that its number enters; mu falls after a
    step that helps and rises until one does. The weights 1/|r_b| make it the sum of norms, not of their squares.

    Attributes:
        moved: which of theta; the others stay.
    """

    student: Student
    batch: Draws
    features: Features
    theta: Tensor
    moved: Sequence[int] | None = None
    damping: float = FIRST
    calls: int = 0
    run: Run = field(init=False)

    def __post_init__(self) -> None:
        self.run = self._run(self.theta, None)

    @property
    def model(self) -> Model:
        return self.student.model

    @property
    def loss(self) -> float:
        """Mean distance to the teacher where it stands."""
        return self._loss(self.run)

    def step(self) -> bool:
        """One step; False where no damping helps any more."""
        residual = _residual(self.run.sample, self.batch.target, self.features)
        moved = list(range(len(self.theta)) if self.moved is None else self.moved)
        columns = [self._column(k, residual) for k in moved]
        jacobian = torch.stack(columns, -1)
        norms = residual.square().mean(1).sqrt()
        weights = 1 / norms.clamp(min=1e-3 * float(norms.median()) + 1e-30)
        normal = torch.einsum("bdp,bdq,b->pq", jacobian, jacobian, weights)
        slope = torch.einsum("bdp,bd,b->p", jacobian, residual, weights)
        scale = normal.diagonal().clamp(min=1e-9 * float(normal.diagonal().max()) + 1e-30)
        for _ in range(TRIES):
            tried = self.theta.clone()
            tried[moved] -= torch.linalg.solve(normal + self.damping * scale.diag(), slope)
            run = self._tried(tried)
            if run is not None and self._loss(run) < self.loss:
                self.theta, self.run, self.damping = tried, run, max(self.damping / FACTOR, LEAST)
                return True
            self.damping *= FACTOR
        return False

    def _column(self, k: int, residual: Tensor) -> Tensor:
        """d residual/d theta_k, to the other side where there is no plan on the one or the number is at its bound."""
        for step in (STEP, -STEP):
            moved = self.theta.clone()
            moved[k] += step
            run = self._tried(moved)
            if run is not None and run.sample is not self.run.sample:
                return (_residual(run.sample, self.batch.target, self.features) - residual) / step
        return torch.zeros_like(residual)

    def _tried(self, theta: Tensor) -> Run | None:
        try:
            run = self._run(theta, self.run)
        except ValueError:  # nodes that are one to rounding: no such plan
            return None
        return run if bool(run.sample.isfinite().all()) else None

    def _run(self, theta: Tensor, like: Run | None) -> Run:
        """From where it differs from `like`. Raises ValueError where there is no such plan, or one of another form."""
        draft = self.student.draft(theta)
        if like is not None and not same_form(draft.plan, like.draft.plan):
            raise ValueError("another form")
        run = Run.of(self.model, self.batch, draft, like)
        self.calls += run.calls
        return run

    def _loss(self, run: Run) -> float:
        return float(teacher_distances(run.sample, self.batch.target, self.features).mean())
