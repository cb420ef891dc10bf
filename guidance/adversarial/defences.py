"""Defences: a classifier with what stands before it, and what an attacker differentiates in its place."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ...adjoint import Auto, Gradient, Input, sample
from ...solvers import Addressed, Model, Plan
from ...solvers.checked import CheckedFields
from .purification import purify, straight_through

Classifier = Callable[[Tensor], Tensor]  # images (B, ...) to logits (B, classes)


class DefenceCost(NamedTuple):
    """Network calls of the logits alone, of the logits and their gradient, and its VJPs; for one image."""

    calls: int
    gradient_calls: int
    vjps: int


class Defence(CheckedFields, ABC):
    """What `robust_accuracy` measures. `random`: whether it draws noise."""

    random: ClassVar[bool] = True

    @abstractmethod
    def logits(self, images: Tensor, noise: Addressed) -> Tensor:
        """(B, classes) under one draw; differentiable where the images require grad."""

    @abstractmethod
    def cost(self) -> DefenceCost:
        """The classifier's own call included."""


@dataclass(frozen=True, eq=False)
class Undefended(Defence):
    """The classifier as it is."""

    classifier: Classifier
    random: ClassVar[bool] = False

    def logits(self, images: Tensor, noise: Addressed) -> Tensor:
        return self.classifier(images)

    def cost(self) -> DefenceCost:
        return DefenceCost(1, 1, 1)


@dataclass(frozen=True, eq=False)
class Purified(Defence):
    """classifier(purify(image)), with a fresh start (and for stochastic plans fresh noise) each time.

    Args:
        gradient: the strategy that differentiates the run: exact at its own memory (`Checkpoint()`,
            `Reversible()`), or an approximation such as `JacobianFree()`.
    """

    classifier: Classifier
    denoiser: Model
    plan: Plan
    gradient: Gradient = Auto()

    def __post_init__(self) -> None:
        self.gradient.check(self.plan, [Input.X])

    def logits(self, images: Tensor, noise: Addressed) -> Tensor:
        gradient = self.gradient if _wanted(images) else None
        start = noise.initial(images)
        clean = purify(
            self.denoiser, self.plan, images, start, noise=_drawn(self.plan, noise), gradient=gradient
        )
        return self.classifier(clean)

    def cost(self) -> DefenceCost:
        calls, vjps = self.gradient.cost(self.plan)
        return DefenceCost(self.plan.nfe + 1, calls + 1, vjps + 1)


@dataclass(frozen=True, eq=False)
class SurrogatePurified(Defence):
    """The values of `Purified` with the gradient of its last `last` steps, as if those before were the identity.

    This is how published evaluations attack purification: BPDA with last = 0, a few unrolled steps otherwise. It
    overestimates the defence wherever `Purified` with an exact gradient breaks it.

    Args:
        gradient: the strategy that differentiates the run of the last steps.
    """

    classifier: Classifier
    denoiser: Model
    plan: Plan
    last: int = 0
    gradient: Gradient = Auto()

    def __post_init__(self) -> None:
        if not 0 <= self.last < self.plan.steps:
            raise ValueError(
                f"SurrogatePurified: got last={self.last}, expected 0 to {self.plan.steps - 1} of the plan's "
                f"{self.plan.steps} steps; all of them are Purified(...)"
            )
        if self._parts()[0].exit != ("x",):
            raise ValueError(
                f"SurrogatePurified: got {self.plan.name}, which remembers predictions across the cut, expected a "
                "one-step method such as DDIM()"
            )
        self.gradient.check(self._parts()[1], [Input.X])

    def _parts(self) -> tuple[Plan, Plan]:
        return self.plan.split(self.plan.steps - self.last)

    def logits(self, images: Tensor, noise: Addressed) -> Tensor:
        (head, tail), drawn = self._parts(), _drawn(self.plan, noise)
        state = purify(
            self.denoiser, head, images.detach(), noise.initial(images), noise=drawn, gradient=None
        )
        state = straight_through(images, state)
        if self.last:
            gradient = self.gradient if _wanted(images) else None
            state = sample(self.denoiser, tail, state, noise=drawn, gradient=gradient)
        return self.classifier(state)

    def cost(self) -> DefenceCost:
        head, tail = self._parts()
        calls, vjps = self.gradient.cost(tail) if self.last else (0, 0)
        return DefenceCost(self.plan.nfe + 1, head.nfe + calls + 1, vjps + 1)


def _wanted(images: Tensor) -> bool:
    return images.requires_grad and torch.is_grad_enabled()


def _drawn(plan: Plan, noise: Addressed) -> Addressed | None:
    """The noise for a plan that draws some."""
    return noise if plan.stochastic else None
