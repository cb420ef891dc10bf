"""Projected gradient descent in a ball around a given point: attacks, for measuring and hardening defences."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...solvers import Addressed
from ...solvers.checked import checked
from ...solvers.notebook import Shown
from ...solvers.progress import progress_bar
from ..grad_mode import check_grad_mode
from .attacked import attacked
from .balls import Ball
from .best import Best
from .descent import Descent
from .expectation import Expectation, PointLoss
from .stepping import FixedStep, Stepping
from .threat_model import Points, ThreatModel


@dataclass(frozen=True, repr=False)
class Attack(Shown):
    """What `pgd` found, each sample at its own best step of its own best restart; under an `Expectation`, whose losses
    are noisy, at the last step of it.

    Attributes:
        points: one like each of the starts, exactly inside its ball.
        loss: (B,) there; for an `Expectation` over draws that no step has seen, the same for every restart.
        losses: (restarts (steps + 1), B) on the way, restart after restart.
        restart: (B,) the restart that won.
        values, gradients: how often the loss was evaluated without and with its gradient, each draw counted.
    """

    points: Points
    loss: Tensor
    losses: Tensor
    restart: Tensor
    values: int
    gradients: int


@checked
def pgd(
    loss: PointLoss | Expectation,
    starts: Tensor | Points,
    balls: Ball | tuple[Ball, ...],
    *,
    steps: int = 20,
    stepping: Stepping = FixedStep(),
    box: tuple[float, float] | None = None,
    jitter: Tensor | Points | None = None,
    restarts: int = 1,
    noise: Addressed = Addressed(0, stream=1),
    callback: Callable[[int, Points], None] | None = None,
    progress: bool = False,
) -> Attack:
    """Minimise loss(*points) (B,) by point <- start + P(point - start - share radius direction(gradient)),
    sample by sample.

    Whatever enters a sampler can be attacked through the whole of it:

        pgd(lambda z, c: loss(sample(denoiser, plan, z, cond=c)), (z, c), (L2(1.0), Linf(0.1)))

    Args:
        loss: of tensors like `starts`; an attacker passes -cross_entropy. Where the defence is random, an
            `Expectation`: fresh draws at every step. Differentiated by autograd: the sampler's strategy
            decides memory and exactness.
        starts: one tensor (B, ...) or several, batch first (injected noise (slots, B, ...): `movedim`).
        balls: one for each.  stepping: `FixedStep()`, by default steps that sum to 2.5 radii, or
            `AutoStep()` for Auto-PGD, which wants some 30 steps or more.
        box: the range all points stay in, starts included (it meets the ball coordinate by
            coordinate, which for L2 can only shorten the change).
        jitter: perturbations to begin with, like `starts`, projected; default none.
        restarts: the first from `jitter`, the others from perturbations uniform in the balls, drawn from
            `noise`, a slot for each start of each restart.
        callback: called with (step, points) before each step and at the end of every restart.
        progress: show a bar over the steps of all restarts.

    Raises:
        ValueError: starts outside `box`, or what the arguments say. FloatingPointError: the loss is not finite
            at a start, before any step.

    The points lie in their balls exactly, in every dtype: |point - start| is compared without rounding.

    A sample whose loss or gradient is not finite later on stays where it is, with a warning, until the next
    restart: its best point is kept and its mates go on. Samples whose gradient was zero throughout are warned of.

    Source: Madry et al. 2018, arXiv 1706.06083, section 2.1. Cost: `restarts` times `steps` gradients of the loss and
    one more, each of as many as an `Expectation` draws; with one, a value for every restart at the end.
    """
    check_grad_mode("pgd")
    threat = attacked(starts, balls, box)
    jitters = (jitter,) if isinstance(jitter, Tensor) else jitter
    _check(threat, steps, jitters, restarts, noise)
    centres = threat.centres
    best, rows = Best(threat.none()), []
    with progress_bar(total=restarts * (steps + 1), disable=not progress) as bar:
        descent = Descent(loss, threat, stepping, steps, callback, bar)
        for restart in range(restarts):
            if restart == 0:
                changes = threat.none() if jitters is None else tuple(d.double() for d in jitters)
            else:
                slots = range(restart * len(centres), (restart + 1) * len(centres))
                changes = tuple(
                    ball.spread(noise(slot, c.double()))
                    for ball, slot, c in zip(threat.balls, slots, centres, strict=True)
                )
            found, losses = descent.run(restart, changes)
            rows += losses
            if isinstance(loss, Expectation):
                # the least of many noisy means flatters: it is judged on draws that no step has seen
                found.loss = descent.value(restarts * (steps + 1), threat.points(found.tensors))
            best.offer(found.loss, found.tensors, restart)
    descent.say_flat()
    points = threat.points(best.tensors)
    losses = torch.stack(rows)
    return Attack(points, best.loss.to(losses), losses, best.turn, descent.values, descent.gradients)


def _check(threat: ThreatModel, steps: int, jitter: Points | None, restarts: int, noise: Addressed) -> None:
    shapes, wanted = ([tuple(d.shape) for d in each] for each in (jitter or (), threat.centres))
    if jitter is not None and shapes != wanted:
        raise ValueError(
            f"jitter: got shapes {shapes} for starts {wanted}, expected a perturbation for each start; give each its "
            "start's shape"
        )
    if steps < 1 or restarts < 1:
        raise ValueError(f"pgd: got steps={steps}, restarts={restarts}, expected steps >= 1, restarts >= 1")
    noise.check(restarts * len(threat.centres), threat.centres[0])
