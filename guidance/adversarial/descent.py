"""Projected descent in a threat model, from one perturbation: the best of its steps, sample by sample."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..loss import check_loss
from .best import Best, chosen_rows
from .expectation import Expectation, PointLoss
from .stepping import Stepping
from .threat_model import Points, ThreatModel


@dataclass(eq=False)
class Descent:
    """Projected descent from a perturbation: what is the same for all restarts, and how often the loss was asked.

    Attributes:
        values, gradients: of the loss, each under one draw.
        flat: (B,) whether the gradient was zero at every step of every restart so far.
    """

    loss: PointLoss | Expectation
    threat: ThreatModel
    stepping: Stepping
    steps: int
    callback: Callable[[int, Points], None] | None
    bar: Any
    values: int = field(default=0, init=False)
    gradients: int = field(default=0, init=False)
    flat: Tensor = field(init=False)

    def __post_init__(self) -> None:
        first = self.threat.centres[0]
        self.flat = torch.ones(len(first), dtype=torch.bool, device=first.device)

    def run(self, restart: int, changes: Points) -> tuple[Best, list[Tensor]]:
        """The best changes of `steps` steps and of where they began, and the losses (B,) at all of them."""
        changes = self.threat.project(changes)
        best, rows, walk = Best(changes), [], self.stepping.walk(self.threat, self.steps)
        going = torch.ones_like(best.turn, dtype=torch.bool)
        for step in range(self.steps + 1):
            points = self.threat.points(changes)
            if self.callback is not None:
                self.callback(step, points)
            turn, last = restart * (self.steps + 1) + step, step == self.steps
            value, grads = (self.value(turn, points), ()) if last else self.gradient(turn, points)
            rows.append(value)
            best.offer(self.rank(value, step), changes, step)
            self.show(value)
            going = going & value.isfinite()
            for grad in grads:
                going = going & grad.flatten(1).isfinite().all(1)
            if grads:
                self.flat = self.flat & torch.stack([(g == 0).flatten(1).all(1) for g in grads]).all(0)
            if restart == step == 0:
                _check_start(value)
            if not last:
                changes = chosen_rows(going, walk.onwards(step, changes, value, grads), changes)
        if not bool(going.all()):
            warnings.warn(
                f"pgd: got a loss or a gradient that is not finite for samples {_places(~going)} in restart "
                f"{restart}, expected finite ones; they stay at the best point before, their mates went on",
                stacklevel=3,
            )
        return best, rows

    def say_flat(self) -> None:
        """Warn of samples that never had a gradient."""
        if bool(self.flat.any()):
            found = _places(self.flat)
            warnings.warn(
                f"pgd: got no gradient at any step for {len(found)} of {len(self.flat)} samples, {found[:8]}, expected "
                "one somewhere: what rounds, cuts off or saturates hides it, and an attack that goes nowhere says "
                "nothing of robustness; take DLR() for a classifier that is sure, or Evasion(through=) a smooth one",
                stacklevel=4,
            )

    def rank(self, value: Tensor, step: int) -> Tensor:
        """What the best step has least of: its loss. Under fresh draws the least loss is the luckiest draw: there the
        last finite step counts.
        """
        if not isinstance(self.loss, Expectation):
            return value
        return torch.full_like(value, -step).masked_fill(~value.isfinite(), torch.inf)

    def show(self, value: Tensor) -> None:
        self.bar.update()
        if not self.bar.disable:  # else the host would wait for the loss
            self.bar.set_postfix(loss=f"{float(value.mean()):.4g}")

    def value(self, turn: int, points: Points) -> Tensor:
        """The mean loss (B,) over the draws of a turn."""
        total, losses = points[0].new_zeros(len(points[0])), self.losses(turn)
        for loss in losses:
            # a strategy in the loss refuses points that ask for no gradient
            value = loss(*(point.detach().requires_grad_() for point in points))
            check_loss(value, len(total))
            total = total + value.detach() / len(losses)
        self.values += len(losses)
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
        self.gradients += len(losses)
        return total, slopes

    def losses(self, turn: int) -> list[PointLoss]:
        return self.loss.losses(turn) if isinstance(self.loss, Expectation) else [self.loss]


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
