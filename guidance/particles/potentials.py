"""Potentials: how a reward seen along the way weighs particles before the end."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ...solvers.checked import Checked


class Potential(Checked, ABC):
    """log G_k, what is added to a particle's log-weight after step k, from the rewards r_0 .. r_k (over beta)
    that its lineage has seen.

    The last weight is always what is missing to exp(r(x_N)), so that any potential gives the same target and
    an unbiased estimate; it changes the variance only.

    Source: Singhal et al. 2025 (FK steering), arXiv 2501.06848, section 4.1.
    """

    def counted(self, reward: Tensor, known: Tensor) -> Tensor:
        """r_k (B, K) as it counts where D(x_k) is known but for noise: `known` = alpha^2/(alpha^2 + sigma^2), which
        grows from 0 to 1, shaped to broadcast. Not asked where a proposal's own likelihood weighs.
        """
        return reward

    @abstractmethod
    def __call__(self, rewards: Tensor) -> Tensor:
        """(k + 1, B, K) to (B, K)."""


@dataclass(frozen=True)
class Difference(Potential):
    """r_k - r_{k-1}, r_{-1} = 0: weights telescope to exp(r_k), the usual twisted target."""

    def __call__(self, rewards: Tensor) -> Tensor:
        return rewards[-1] - rewards[-2] if len(rewards) > 1 else rewards[-1]


@dataclass(frozen=True)
class Discounted(Difference):
    """Difference of r_k alpha^2/(alpha^2 + sigma^2): a reward counts by the share of x_0 that is known.

    r(D(x_k)) takes the prediction for certain. Where the reward is sharp, as a likelihood of small noise is,
    that leaves one particle in all of them at the first steps, and log Z low by tens of nats however many
    particles are left at the end. For rewards nearly linear over a posterior's width `Difference` varies less.
    """

    def counted(self, reward: Tensor, known: Tensor) -> Tensor:
        return known * reward


@dataclass(frozen=True)
class Most(Potential):
    """max_i r_i: lineages that have seen a high reward."""

    def __call__(self, rewards: Tensor) -> Tensor:
        return rewards.amax(0)


@dataclass(frozen=True)
class Total(Potential):
    """sum_i r_i: lineages whose rewards stay high."""

    def __call__(self, rewards: Tensor) -> Tensor:
        return rewards.sum(0)


@dataclass(frozen=True)
class Terminal(Potential):
    """0: nothing before the end; importance sampling."""

    def __call__(self, rewards: Tensor) -> Tensor:
        return torch.zeros_like(rewards[-1])
