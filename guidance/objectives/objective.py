"""Objectives of reward fine-tuning: what to roll out, which losses to descend, what to carry between updates."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...solvers import Addressed, Model, Noise, Plan
from ...solvers.checked import CheckedFields
from ...solvers.notebook import Shown
from ..rewards.base import RewardFunction
from .peers import World


@dataclass(frozen=True, eq=False)
class Policy:
    """What is trained, how it is sampled and the reference it is compared with.

    Args:
        denoiser: its parameters that require grad are trained.
        plan: the sampler.
        reference: the frozen base as a Model of its own, or the same network with its adapter switched off
            around each call.
    """

    denoiser: Model
    plan: Plan
    reference: Model | None = None


@dataclass(frozen=True, eq=False, repr=False)
class Batch(Shown):
    """The samples of one rollout on this process.

    Args:
        x: (B, ...) starting noise.
        noise: the injected noise, addressed by the samples' global ids, so that a split over processes
            changes nothing.
        groups: (B,) integers: the prompt of each sample; equal for the repeats of one prompt.
        cond: what the network takes, for B samples.
        context: what the reward takes beside the samples.
        source: where these samples have their addresses, x too, whether the plan draws noise or not.
    """

    x: Tensor
    noise: Noise | None
    groups: Tensor
    cond: Any = None
    context: Any = None
    source: Addressed | None = None

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True, eq=False, repr=False)
class Experience(Shown):
    """A rollout and what it was worth. Every tensor is detached.

    Args:
        batch: what it started from.
        reward: (B,), before any normalisation.
        states: (N + 1, B, ...) the states at the plan's nodes, where the objective needs them.
        extra: what else the objective wants back in `updates`: advantages, old log-probabilities, the lean
            adjoint.
    """

    batch: Batch
    reward: Tensor
    states: Tensor | None = None
    extra: Any = None


class Objective(CheckedFields, ABC):
    """One algorithm, with its paper's defaults as fields.

    The trainer calls `check` once, then for each iteration `rollout` and `updates`. A loss is a mean over this
    process's samples; its mean over processes is descended: the trainer averages the gradients.
    """

    def check(self, policy: Policy) -> None:  # noqa: B027  (most objectives need no more)
        """Raise ValueError where `policy` cannot serve: a deterministic plan, no reference, no parameters."""

    @abstractmethod
    def rollout(
        self, policy: Policy, batch: Batch, reward: RewardFunction, world: World
    ) -> Experience | None:
        """Sample and score without a graph; None where `updates` does both at once (direct gradients)."""

    @abstractmethod
    def updates(
        self,
        policy: Policy,
        batch: Batch,
        experience: Experience | None,
        reward: RewardFunction,
        world: World,
        generator: torch.Generator,
    ) -> Iterator[Iterator["LossTerm"]]:
        """For each optimiser step the terms of its loss, made one after the other: the graph of one is gone
        before the next is built.

        Args:
            generator: for choices that all processes must share (which steps, which order); never for noise.
        """

    def state(self) -> dict[str, Any]:
        """What must survive a restart besides weights and optimiser: running statistics, adaptive weights,
        value nets.
        """
        return {}

    def load(self, state: dict[str, Any]) -> None:  # noqa: B027  (many carry nothing)
        """Take back what `state` gave."""


@dataclass(frozen=True, eq=False, repr=False)
class LossTerm(Shown):
    """One term of an update's loss: the terms are added up by back-propagating one after the other.

    Attributes:
        value: a scalar with its graph.
        figures: for the log, means over this process's samples.
        rewards: (B,) detached, where computing this term scored the samples.
    """

    value: Tensor
    figures: dict[str, float]
    rewards: Tensor | None = None
