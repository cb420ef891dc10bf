"""Particles: K of them for each sample, on an axis of their own, so that batch mates never meet."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ...adjoint import PerStep
from ...solvers import Addressed, Noise
from ..guides.steering import Steered
from .resampling import ess, uniforms

CHOICE = (
    2**62
    # streams: particle k has stream + k, resampling stream + CHOICE, the guide's own draws another CHOICE further
)


@dataclass(frozen=True)
class ParticleNoise(Noise):
    """Noise of a batch of B samples with `count` particles each, laid out (B count, ...): particle k
    has a stream of its own.

    Addressed by sample and particle, so neither the batch nor the number of particles changes a
    particle's noise.
    """

    source: Addressed
    count: int

    def check(self, slots: int, like: Tensor) -> None:
        self.source.check(slots, like[:: self.count])

    def __call__(self, slot: int, like: Tensor) -> Tensor:
        own = like[:: self.count]
        return torch.stack([stream(self.source, k)(slot, own) for k in range(self.count)], 1).flatten(0, 1)


def stream(source: Addressed, offset: int) -> Addressed:
    """`source` in another stream."""
    return Addressed(source.seed, source.samples, (source.stream + offset) % 2**64, source.on_cpu)


def starting_particles(noise: Addressed, like: Tensor, count: int) -> Tensor:
    """Starting noise (B, K, ...) for samples like (B, ...): particle k of a sample in its own stream."""
    return torch.stack([stream(noise, k).initial(like) for k in range(count)], 1)


def repeated(tree: Any, count: int, batch: int) -> Any:
    """Conditioning or context of B samples for B count particles: tensors are (B, ...), PerStep
    values (N, B, ...).
    """

    def repeat(value: Tensor, axis: int) -> Tensor:
        if value.ndim <= axis or value.shape[axis] != batch:
            raise ValueError(
                f"cond or context: got a tensor of shape {tuple(value.shape)}, expected {batch} along axis "
                f"{axis}, one for each sample; expand what samples share"
            )
        return value.repeat_interleave(count, axis)

    def one(leaf: Any) -> Any:
        if isinstance(leaf, PerStep):
            return PerStep(repeat(leaf.values, 1))
        return repeat(leaf, 0) if isinstance(leaf, Tensor) else leaf

    return tree_map(one, tree, is_leaf=lambda leaf: isinstance(leaf, PerStep))


def check_particles(x: Tensor, noise: Addressed) -> None:
    """Raise ValueError where x is no batch of particles or noise does not name its samples."""
    if x.ndim < 3:
        raise ValueError(
            f"x: got shape {tuple(x.shape)}, expected (B, K, ...): K particles for each sample; see "
            "`starting_particles`"
        )
    noise.check(0, x)


@dataclass(frozen=True, eq=False)
class Cloud:
    """Weighted particles at the end of a run.

    Attributes:
        x: (B, K, ...);  log_weights: (B, K), summing to one in exp.
        log_z: (B,) log of the estimate of E[exp(r(x)/beta)] under the sampler's own law: unbiased, before the
            log.
        ess: (N, B) effective sample size after each step, before resampling;  resampled: (N, B) whether it
            was done.
        run: NFE, VJPs, seed.
    """

    x: Tensor
    log_weights: Tensor
    log_z: Tensor
    ess: Tensor
    resampled: Tensor
    run: Steered

    def mean(self, values: Tensor | None = None) -> Tensor:
        """sum_k w_k values_k over the particles, (B, ...); values (B, K, ...), default x."""
        values = self.x if values is None else values
        return (
            self.log_weights.exp().reshape(*self.log_weights.shape, *(1,) * (values.ndim - 2)) * values
        ).sum(1)

    def draw(self, noise: Addressed) -> Tensor:
        """One particle of each sample by its weight, (B, ...)."""
        points = uniforms(noise, 0, self.log_weights[:, :1])
        index = torch.searchsorted(self.log_weights.double().exp().cumsum(1), points).clamp(
            max=self.x.shape[1] - 1
        )[:, 0]
        return self.x[torch.arange(len(self.x), device=self.x.device), index]

    @property
    def final_ess(self) -> Tensor:
        """(B,) effective sample size of the result."""
        return ess(self.log_weights)


def followed(values: Sequence[Tensor], ancestors: Tensor) -> list[Tensor]:
    """Each of `values` (..., B, K) as its ancestors (B, K) had it."""
    return [value.gather(-1, ancestors.expand_as(value)) for value in values]
