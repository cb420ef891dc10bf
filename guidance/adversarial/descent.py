"""Projected descent in balls, from one perturbation: the best of its steps, sample by sample."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...solvers.broadcast import per_sample
from ..loss import check_loss
from .balls import Ball
from .expectation import Expectation, PointLoss

Points = tuple[Tensor, ...]


class Best:
    """The points of least loss so far, sample by sample, and the turn that found them."""

    def __init__(self, points: Points) -> None:
        self.points = points
        self.loss = points[0].new_full((len(points[0]),), torch.inf)
        self.turn = torch.zeros_like(self.loss, dtype=torch.long)

    def offer(self, loss: Tensor, points: Points, turn: int) -> None:
        lower = loss.isfinite() & (loss < self.loss)
        self.loss, self.turn = torch.where(lower, loss, self.loss), torch.where(lower, turn, self.turn)
        self.points = _choose(lower, points, self.points)


@dataclass(frozen=True, eq=False)
class Descent:
    """Projected descent from a perturbation: what is the same for all restarts."""

    loss: PointLoss | Expectation
    centres: Points
    balls: tuple[Ball, ...]
    steps: int
    share: float
    box: tuple[float, float] | None
    callback: Callable[[int, Points], None] | None

    def run(self, restart: int, changes: Points) -> tuple[Best, list[Tensor]]:
        """The best of `steps` steps and of where they began, and the losses (B,) at all of them."""
        points = self.inside(changes)
        best, rows, going = Best(points), [], torch.ones(len(points[0]), dtype=torch.bool)
        going = going.to(points[0].device)
        for step in range(self.steps + 1):
            if self.callback is not None:
                self.callback(step, points)
            turn, last = restart * (self.steps + 1) + step, step == self.steps
            value, grads = (self.value(turn, points), ()) if last else self.gradient(turn, points)
            rows.append(value)
            best.offer(value, points, step)
            going = going & value.isfinite()
            for grad in grads:
                going = going & grad.flatten(1).isfinite().all(1)
            if restart == step == 0:
                _check_start(value)
            if not last:
                points = _choose(going, self.inside(self.towards(points, grads)), points)
        if not bool(going.all()):
            warnings.warn(
                f"pgd: got a loss or a gradient that is not finite for samples {_places(~going)} in restart "
                f"{restart}, expected finite ones; they stay at the best point before, their mates went on",
                stacklevel=3,
            )
        return best, rows

    def towards(self, points: Points, grads: Points) -> Points:
        """The perturbations after one step, not yet projected."""
        return tuple(
            p - c - self.share * ball.radius * ball.direction(g)
            for p, c, ball, g in zip(points, self.centres, self.balls, grads, strict=True)
        )

    def inside(self, changes: Points) -> Points:
        """The points of perturbations projected into the balls, and into the box."""
        moved = (c + b.project(d) for c, b, d in zip(self.centres, self.balls, changes, strict=True))
        return tuple(point if self.box is None else point.clamp(*self.box) for point in moved)

    def value(self, turn: int, points: Points) -> Tensor:
        """The mean loss (B,) over the draws of a turn."""
        total, losses = points[0].new_zeros(len(points[0])), self.losses(turn)
        for loss in losses:
            # a strategy in the loss refuses points that ask for no gradient
            value = loss(*(point.detach().requires_grad_() for point in points))
            check_loss(value, len(total))
            total = total + value.detach() / len(losses)
        return total

    def gradient(self, turn: int, points: Points) -> tuple[Tensor, Points]:
        """The same and its gradients, one draw's graph at a time."""
        losses, batch = self.losses(turn), len(points[0])
        total, slopes = points[0].new_zeros(batch), tuple(torch.zeros_like(p) for p in points)
        for loss in losses:
            live = tuple(point.detach().requires_grad_() for point in points)
            value = loss(*live)
            check_loss(value, batch)
            if not value.requires_grad:
                raise ValueError(
                    "loss: got values without a graph, expected a differentiable function of the points; remove "
                    "detach and no_grad from it, and give the sampler in it a gradient strategy"
                )
            grads = torch.autograd.grad(value.sum(), live)
            total = total + value.detach() / len(losses)
            slopes = tuple(s + g / len(losses) for s, g in zip(slopes, grads, strict=True))
        return total, slopes

    def losses(self, turn: int) -> list[PointLoss]:
        return self.loss.losses(turn) if isinstance(self.loss, Expectation) else [self.loss]


def _choose(where: Tensor, new: Points, old: Points) -> Points:
    """Sample by sample the new point or the old."""
    return tuple(torch.where(per_sample(where, n), n, o) for n, o in zip(new, old, strict=True))


def _places(where: Tensor) -> list[int]:
    return where.nonzero().flatten().tolist()


def _check_start(value: Tensor) -> None:
    """Raise FloatingPointError where the loss is not finite before any step."""
    broken = _places(~value.isfinite())
    if broken:
        raise FloatingPointError(
            f"loss: not finite at the starts of samples {broken[:8]} of {len(value)}: got "
            f"{value[broken[0]].item()}, expected finite values; leave these samples out or mend the loss"
        )
