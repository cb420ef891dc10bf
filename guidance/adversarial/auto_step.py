"""AutoStep: the step control of Auto-PGD, which needs no step size to be chosen."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .best import Best, chosen_rows
from .stepping import Stepping, Walk
from .threat_model import Points, ThreatModel


@dataclass(frozen=True)
class AutoStep(Stepping):
    """Auto-PGD: from x_k with the step eta_k, in radii, and x_{-1} = x_0,

        z       = P(x_k - eta_k radius direction(gradient))
        x_{k+1} = P(x_k + blend (z - x_k) + (1 - blend) (x_k - x_{k-1}))

    and at checkpoints w_j = ceil(p_j N), p_1 = 0.22, p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06), a sample's step
    is halved and it goes back to the best it has seen where, since the checkpoint before,

        fewer than `falls` of the steps lowered the loss, or
        neither its step nor its best loss has changed.

    Under an `Expectation` it compares noisy losses: take draws enough to tell its steps apart, or `FixedStep`.

    At the start steps are long and look around; later they are short and finish what was found.

    Args:
        share: the first step, in radii.

    Source: Croce and Hein 2020, arXiv 2003.01690, algorithm 1 (alpha = 0.75, rho = 0.75, eta = 2 eps). Cost: nothing
    beside the gradient of each step; one more perturbation and gradient are kept.
    """

    share: float = 2.0
    blend: float = 0.75
    falls: float = 0.75

    def __post_init__(self) -> None:
        if not 0 < self.share or not 0 < self.blend <= 1 or not 0 <= self.falls <= 1:
            raise ValueError(
                f"AutoStep: got {self}, expected share > 0, 0 < blend <= 1 and 0 <= falls <= 1; published are 2, "
                "0.75, 0.75"
            )

    def walk(self, threat: ThreatModel, steps: int) -> Walk:
        return _AutoWalk(self, threat, checkpoints(steps))


def checkpoints(steps: int) -> tuple[int, ...]:
    """w_1 < w_2 < ... of a run of so many steps."""
    found, before, here = [], 0.0, 0.22
    while here < 1:
        found.append(math.ceil(here * steps))
        before, here = here, here + max(here - before - 0.03, 0.06)
    return tuple(dict.fromkeys(found))


class _AutoWalk(Walk):
    def __init__(self, rule: AutoStep, threat: ThreatModel, checks: tuple[int, ...]) -> None:
        self.rule, self.threat, self.checks = rule, threat, checks
        nothing = threat.none()
        self.best = Best(nothing + tuple(torch.zeros_like(c) for c in threat.centres))  # changes and slopes
        self.before = nothing
        self.share = torch.full_like(self.best.loss, rule.share)
        self.loss = self.best.loss  # where the last step set out
        self.fallen = torch.zeros_like(self.share)  # steps that lowered the loss since the last checkpoint
        self.checked, self.checked_loss, self.halved = (
            0,
            self.best.loss,
            torch.zeros_like(self.best.turn).bool(),
        )

    def onwards(self, step: int, changes: Points, loss: Tensor, slopes: Points) -> Points:
        self.best.offer(loss, changes + slopes, step)
        if step == 0:
            self.before, self.checked_loss = changes, self.best.loss
        else:
            self.fallen = self.fallen + (loss < self.loss)
        if step in self.checks:
            loss, changes, slopes = self._check(step, loss, changes, slopes)
        ahead = self.threat.stepped(changes, slopes, self.share)
        if step:
            blend, drift = self.rule.blend, 1 - self.rule.blend
            ahead = self.threat.project(
                tuple(
                    d + blend * (z - d) + drift * (d - past)
                    for d, z, past in zip(changes, ahead, self.before, strict=True)
                )
            )
        self.before, self.loss = changes, loss
        return ahead

    def _check(
        self, step: int, loss: Tensor, changes: Points, slopes: Points
    ) -> tuple[Tensor, Points, Points]:
        """Halve where the steps have not helped, and go back to the best there."""
        restless = self.fallen < self.rule.falls * (step - self.checked)
        settled = ~self.halved & (self.best.loss == self.checked_loss)
        self.halved = restless | settled
        self.share = torch.where(self.halved, self.share / 2, self.share)
        self.checked, self.checked_loss, self.fallen = step, self.best.loss, torch.zeros_like(self.fallen)
        kept = chosen_rows(self.halved, self.best.tensors, changes + slopes)
        loss = torch.where(self.halved, self.best.loss, loss)
        return loss, kept[: len(changes)], kept[len(changes) :]
