"""Projected gradient descent in a ball around a given point: attacks, for measuring and hardening defences."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...solvers.broadcast import per_sample
from ...solvers.kinds import check_kind
from ..loss import check_loss
from .balls import Ball


@dataclass(frozen=True)
class Attack:
    """What `pgd` found, each sample at its own best step.

    Attributes:
        points: one like each of the starts. loss: (B,) there. losses: (steps + 1, B) on the way.
    """

    points: tuple[Tensor, ...]
    loss: Tensor
    losses: Tensor


def pgd(
    loss: Callable[..., Tensor],
    starts: Tensor | tuple[Tensor, ...],
    balls: Ball | tuple[Ball, ...],
    *,
    steps: int = 20,
    share: float = 0.1,
    box: tuple[float, float] | None = None,
    jitter: tuple[Tensor, ...] | None = None,
    callback: Callable[[int, tuple[Tensor, ...]], None] | None = None,
) -> Attack:
    """Minimise loss(*points) (B,) by point <- start + P(point - start - share radius direction(gradient)),
    sample by sample.

    Whatever enters a sampler can be attacked through the whole of it:

        pgd(lambda z, c: loss(sample(denoiser, plan, z, cond=c)), (z, c), (L2(1.0), Linf(0.1)))

    Args:
        loss: of tensors like `starts`; an attacker passes -cross_entropy, or an average over fresh noise
            where the defence is random. Differentiated by autograd: the sampler's strategy decides memory and
            exactness.
        starts: one tensor (B, ...) or several, batch first (injected noise (slots, B, ...): `movedim`).
        balls: one for each.  share: length of a step in radii.  box: the range all points stay in (it meets
            the ball coordinate by coordinate, which for L2 can only shorten the change).
        jitter: perturbations to begin with, projected; default none.  callback: called with (step, points)
            before each step and at the end.

    Source: Madry et al. 2018, arXiv 1706.06083, section 2.1. Cost: steps gradients of the loss and one more
    value.
    """
    centres = (starts,) if isinstance(starts, Tensor) else starts
    bounds = (balls,) if isinstance(balls, Ball) or not isinstance(balls, tuple | list) else balls
    for ball in bounds:
        check_kind("balls", ball, Ball, "a ball for each start, or one; write Linf(0.1) or L2(1.0)")
    if (
        len(centres) != len(bounds)
        or len({len(c) for c in centres}) != 1
        or jitter is not None
        and len(jitter) != len(centres)
    ):
        raise ValueError(
            f"pgd: got {len(centres)} starts of batches {[len(c) for c in centres]} and {len(bounds)} balls, "
            "expected one ball (and jitter) for each start and one batch size"
        )
    if steps < 1 or not 0 < share or any(b.radius < 0 for b in bounds):
        raise ValueError(
            f"pgd: got steps={steps}, share={share}, {bounds}, expected steps >= 1, share > 0, radii >= 0"
        )
    centres = tuple(c.detach() for c in centres)

    def inside(changes: list[Tensor]) -> tuple[Tensor, ...]:
        moved = [c + ball.project(change) for c, ball, change in zip(centres, bounds, changes, strict=True)]
        return tuple(point if box is None else point.clamp(*box) for point in moved)

    points = inside([torch.zeros_like(c) for c in centres] if jitter is None else list(jitter))
    best, least, rows = points, centres[0].new_full((len(centres[0]),), torch.inf), []
    for step in range(steps + 1):
        if callback is not None:
            callback(step, points)
        live = tuple(point.detach().requires_grad_() for point in points)
        value = loss(*live)
        check_loss(value, len(least))
        rows.append(value.detach())
        lower = rows[-1] < least
        least = torch.where(lower, rows[-1], least)
        best = tuple(torch.where(per_sample(lower, p), p, b) for p, b in zip(points, best, strict=True))
        if step < steps:
            grads = torch.autograd.grad(value.sum(), live)
            points = inside(
                [
                    p - c - share * ball.radius * ball.direction(g)
                    for p, c, ball, g in zip(points, centres, bounds, grads, strict=True)
                ]
            )
    return Attack(best, least, torch.stack(rows))
