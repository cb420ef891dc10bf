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
HIGHEST = 5.0  # damping above which no step is tried
WIDE = 0.03  # of a second difference of the loss, whose noise is divided by the square of it


def teacher_distances(sample: Tensor, target: Tensor, features: Features) -> Tensor:
    """(B,) root mean square of features(sample) - features(target)."""
    return _residual(sample, target, features).square().mean(1).sqrt()


def check_distances(found: Tensor) -> None:
    """Raises FloatingPointError for distances (B,) that are not finite: every comparison with one is false."""
    if bad := int((~found.isfinite()).sum()):
        raise FloatingPointError(
            f"features: got values that are not finite for {bad} of {len(found)} samples of the plan or of the "
            "teacher, expected finite ones; change features, or begin at a plan whose samples are finite"
        )


def _residual(sample: Tensor, target: Tensor, features: Features) -> Tensor:
    return (features(sample) - features(target)).flatten(1).double()


@dataclass(eq=False)
class GaussNewton:
    """Descends sum_b |r_b(theta)|, r_b the residual of sample b: each step solves

        (A + S + mu diag(A + S)) d = -g,   A = sum_b J_b^T J_b / |r_b|,   g = sum_b J_b^T r_b / |r_b|

    with J by forward differences, of which each runs only from the first step that its number enters; mu falls after a
    step that helps and rises until one does. The weights 1/|r_b| make it the sum of norms, not of their squares.

    A leaves out how r itself bends, which is most of the curvature where r is large and J nearly at right angles to it:
    nodes of a grid on a network that is not far from straight have next to nothing of theirs in A. Where no mu helps,
    S, diagonal and at first nought, is what second differences of the loss have above A, so that such a number takes
    a step of its own length and the others theirs.

    Attributes:
        moved: which of theta; the others stay. bent: S (P,).

    Raises:
        FloatingPointError: a distance that is not finite where it begins.
    """

    student: Student
    batch: Draws
    features: Features
    theta: Tensor
    moved: Sequence[int] | None = None
    damping: float = FIRST
    calls: int = 0
    bent: Tensor = field(init=False)
    run: Run = field(init=False)

    def __post_init__(self) -> None:
        self.bent = torch.zeros_like(self.theta)
        self.run = self._run(self.theta, None)
        check_distances(teacher_distances(self.run.sample, self.batch.target, self.features))

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
        if self._stepped(moved, normal, slope):
            return True
        for k, part in zip(
            moved, normal.diagonal(), strict=True
        ):  # A and g are of the sum, the loss is the mean
            self.bent[k] = (
                (residual.numel() * self._second_difference(k) - part).clamp(min=0).nan_to_num(posinf=0.0)
            )
        self.damping = FIRST
        return self._stepped(moved, normal, slope)

    def _stepped(self, moved: list[int], normal: Tensor, slope: Tensor) -> bool:
        """Whether a damping was found that helps; theta is then where it leads to."""
        normal = normal + self.bent[moved].diag()
        scale = normal.diagonal().clamp(min=1e-9 * float(normal.diagonal().max()) + 1e-30)
        while self.damping <= HIGHEST:
            tried = self.theta.clone()
            tried[moved] -= torch.linalg.solve(normal + self.damping * scale.diag(), slope)
            run = self._tried(tried)
            if run is not None and self._loss(run) < self.loss:
                self.theta, self.run, self.damping = tried, run, max(self.damping / FACTOR, LEAST)
                return True
            self.damping *= FACTOR
        return False

    def _second_difference(self, k: int) -> Tensor:
        """d^2 loss/d theta_k^2; nought where there is no plan on either side, NaN where features are not finite."""
        total = -2 * self.loss
        for step in (WIDE, -WIDE):
            moved = self.theta.clone()
            moved[k] += step
            run = self._tried(moved)
            if run is None:
                return self.theta.new_zeros(())
            total += self._loss(run)
        return self.theta.new_tensor(total / WIDE**2)

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
