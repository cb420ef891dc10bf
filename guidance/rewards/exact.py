"""Rewards under which a Gaussian or a mixture stays one: the oracle of reward fine-tuning."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...solvers import Mixture
from ...solvers.notebook import Shown
from ...solvers.wanted import Finite, RealNumbers
from .base import Reward
from .values import at_least_float32


@dataclass(frozen=True, eq=False, repr=False)
class LinearReward(Shown, Reward):
    """r(x) = <slope, x> + offset: unbounded, the demonstration of reward hacking without a KL.

    Args:
        slope: (d,) or the event's shape, d entries.
    """

    slope: RealNumbers
    offset: Finite = 0.0

    def score(self, samples: Tensor, context: Any) -> Tensor:
        flat = _flat(samples, self.slope)
        return flat @ self.slope.flatten().to(flat) + self.offset

    def tilted(self, law: Mixture, beta: float) -> Mixture:
        """The law p(x) exp(r(x)/beta), scaled to 1: weights w_k exp(a'm_k + a'C_k a/2), means m_k + C_k a,
        with a = slope/beta.
        """
        return _tilt(law, torch.zeros_like(law.covs[0]), self.slope.flatten().to(law.means) / beta, beta)


@dataclass(frozen=True, eq=False, repr=False)
class QuadraticReward(Shown, Reward):
    """r(x) = -scale/2 |x - centre|^2, at most 0.

    Args:
        centre: (d,) or the event's shape, d entries.
        scale: > 0, in 1 / units of x squared.
    """

    centre: RealNumbers
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.scale < float("inf"):
            raise ValueError(
                f"QuadraticReward: got scale={self.scale}, expected a number > 0; negate the reward for the "
                "opposite"
            )

    def score(self, samples: Tensor, context: Any) -> Tensor:
        flat = _flat(samples, self.centre)
        return -self.scale / 2 * (flat - self.centre.flatten().to(flat)).square().sum(1)

    def tilted(self, law: Mixture, beta: float) -> Mixture:
        """The law p(x) exp(r(x)/beta), scaled to 1: each Gaussian times N(centre, beta/scale I), weighted by
        their overlap.
        """
        precision = self.scale / beta * torch.eye(law.means.shape[1]).to(law.means)
        return _tilt(law, precision, precision @ self.centre.flatten().to(law.means), beta)


def _tilt(law: Mixture, precision: Tensor, slope: Tensor, beta: float) -> Mixture:
    """law times exp(slope'x - x'precision x/2), without inverting a covariance: C may be singular.

    With A = I + C P: C' = A^-1 C, m' = A^-1 (m + C s); with g = s - P m the log-weights grow by s'm - m'Pm/2
    + g'C'g/2 - log|A|/2.
    """
    if not beta > 0:
        raise ValueError(f"beta: got {beta}, expected a number > 0: the weight of the KL in p exp(r/beta)")
    eye = torch.eye(law.means.shape[1]).to(law.means)
    grown = eye + law.covs @ precision
    moved = law.means + law.covs @ slope
    means = torch.linalg.solve(grown, moved[..., None])[..., 0]
    covs = torch.linalg.solve(grown, law.covs)
    residual = slope - law.means @ precision
    log_mass = law.means @ slope - ((law.means @ precision) * law.means).sum(1) / 2
    log_mass = (
        log_mass
        + (residual * torch.einsum("kij,kj->ki", covs, residual)).sum(1) / 2
        - torch.logdet(grown) / 2
    )
    return Mixture((law.log_weights + log_mass).softmax(0), means, (covs + covs.mT) / 2)


def _flat(samples: Tensor, like: Tensor) -> Tensor:
    if samples[0].numel() != like.numel():
        raise ValueError(
            f"toy reward: got samples with {samples[0].numel()} entries each, expected {like.numel()} as its "
            "own tensor; make them equal"
        )
    return at_least_float32(samples).flatten(1)
