"""Resampling: which particles go on, and in how many copies. A sample's particles compete among themselves only."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ...solvers import Addressed
from ...solvers.checked import CheckedFields, checked


class Resampling(CheckedFields, ABC):
    """Draws ancestors so that particle i has K w_i children in the mean."""

    @abstractmethod
    def points(self, uniforms: Tensor) -> Tensor:
        """(B, K) points of [0, 1] at which the cumulative weights are read, from uniforms (B, K)."""

    def __call__(self, weights: Tensor, uniforms: Tensor) -> Tensor:
        """Ancestors (B, K), integers in [0, K), for weights (B, K) that sum to one."""
        edges = weights.double().cumsum(1)
        found = torch.searchsorted(edges / edges[:, -1:], self.points(uniforms).contiguous(), right=True)
        # a point rounded up to 1 lies past the last particle with a weight: it is given to that one
        behind = (weights > 0).flip(1).to(torch.int8).argmax(1, keepdim=True)
        return torch.minimum(found, weights.shape[1] - 1 - behind)


@dataclass(frozen=True)
class Multinomial(Resampling):
    """Independent draws (Gordon et al. 1993)."""

    def points(self, uniforms: Tensor) -> Tensor:
        return uniforms


@dataclass(frozen=True)
class Stratified(Resampling):
    """One draw in each of K equal strata (Kitagawa 1996)."""

    def points(self, uniforms: Tensor) -> Tensor:
        count = uniforms.shape[1]
        return (torch.arange(count, device=uniforms.device) + uniforms) / count


@dataclass(frozen=True)
class Systematic(Resampling):
    """One draw for all strata: floor(K w_i) or one more children each (Kitagawa 1996; Carpenter et al. 1999)."""

    def points(self, uniforms: Tensor) -> Tensor:
        return Stratified().points(uniforms[:, :1].expand_as(uniforms))


@checked
def ess(log_weights: Tensor) -> Tensor:
    """Effective sample size (sum w)^2 / sum w^2 over the last axis: between 1 and K, or 0 where every w is."""
    if not log_weights.is_floating_point():
        raise TypeError(
            f"log_weights: got {log_weights.dtype}, expected floating point; pass log_weights.float()"
        )
    total = log_weights.logsumexp(-1)
    size = (2 * total - (2 * log_weights).logsumexp(-1)).exp()
    return torch.where(total.isneginf(), 0.0, size)


def uniform_draws(noise: Addressed, slot: int, like: Tensor) -> Tensor:
    """Uniform draws in [0, 1) of `like`'s shape (B, ...), float64: the normal distribution function of the
    noise at `slot`.
    """
    return torch.special.ndtr(noise(slot, like).double()).clamp(max=1 - 2**-53)
