"""Evasion: an attack on a classifier and what stands before it."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...solvers import Addressed
from ...solvers.broadcast import per_sample
from ...solvers.checked import CheckedFields
from .aims import Aim, CrossEntropy
from .attack import pgd
from .auto_step import AutoStep
from .balls import Ball
from .defences import Defence
from .expectation import Expectation
from .stepping import Stepping


class Evaded(NamedTuple):
    """Images (B, ...) in the ball, and the network calls and VJPs they took, all images together."""

    images: Tensor
    calls: int
    vjps: int


@dataclass(frozen=True, eq=False)
class Evasion(CheckedFields):
    """`pgd` on a classifier's logits.

    Args:
        aim: the loss, away from the label or towards another class.
        stepping, steps, restarts: as in `pgd`.
        draws: of a random defence's noise at each step, averaged.
        through: what the attacker differentiates in the defence's place: `SurrogatePurified(...)`, another
            classifier for a transfer attack; by default the defence itself.
    """

    aim: Aim = CrossEntropy()
    stepping: Stepping = AutoStep()
    steps: int = 100
    restarts: int = 1
    draws: int = 1
    through: Defence | None = None

    def run(
        self,
        defence: Defence,
        images: Tensor,
        labels: Tensor,
        logits: Tensor,
        ball: Ball,
        *,
        box: tuple[float, float] | None = None,
        noise: Addressed = Addressed(0),
        progress: bool = False,
    ) -> Evaded:
        """Attack every image, given its logits (B, classes) before.

        Of an attack on a defence without noise the last point that was misread is returned, where there is one: the
        least loss need not be there. With noise one misreading says little.
        """
        seen, aim = self.through or defence, self.aim.at(logits, labels)
        misread, found = torch.zeros_like(labels, dtype=torch.bool), images

        def loss(points: Tensor, drawn: Addressed) -> Tensor:
            nonlocal misread, found
            out = seen.logits(points, drawn)
            if not seen.random:
                wrong = out.isfinite().all(1) & (out.argmax(1) != labels)
                misread, found = (
                    misread | wrong,
                    torch.where(per_sample(wrong, images), points.detach(), found),
                )
            return aim(out)

        begin = Addressed(noise.seed, noise.samples, noise.stream + 2**31, noise.on_cpu)
        attack = pgd(
            Expectation(loss, self.draws, noise) if seen.random else lambda points: loss(points, noise),
            images, ball, steps=self.steps, stepping=self.stepping, box=box, restarts=self.restarts, noise=begin,
            progress=progress,
        )  # fmt: skip
        cost = seen.cost()
        calls = attack.values * cost.calls + attack.gradients * cost.gradient_calls
        best = torch.where(per_sample(misread, images), found, attack.points[0])
        return Evaded(best, calls * len(images), attack.gradients * cost.vjps * len(images))
