"""B samples with K particles each as one batch: (B, K, ...) laid out flat as (B K, ...), and where each draw's
address lies.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ...adjoint import PerStep
from ...solvers import Addressed, Noise
from ...solvers.checked import checked
from ...solvers.kinds import check_kind
from ...solvers.wanted import Count, Samples

# Particle k of a sample draws in the stream k above the caller's, resampling and a proposal of its own in streams
# that no particle reaches.
RESAMPLING, PROPOSAL = 2**62, 2**63


def in_stream(source: Addressed, offset: int) -> Addressed:
    """`source`, `offset` streams further on."""
    return replace(source, stream=(source.stream + offset) % 2**64)


@dataclass(frozen=True)
class ParticleNoise(Noise):
    """The noise of a flat batch (B count, ...): particle k of each sample has a stream of its own.

    Addressed by sample and particle, so neither the batch nor the number of particles changes a particle's
    noise.
    """

    source: Addressed
    count: int

    def check(self, slots: int, like: Tensor) -> None:
        self.source.check(slots, like[:: self.count])

    def __call__(self, slot: int, like: Tensor) -> Tensor:
        own = like[:: self.count]
        draws = [in_stream(self.source, k)(slot, own) for k in range(self.count)]
        return torch.stack(draws, 1).flatten(0, 1)


@checked
def starting_particles(noise: Addressed, like: Samples, count: Count) -> Tensor:
    """Starting noise (B, K, ...) for samples like (B, ...): particle k of a sample in its own stream."""
    return torch.stack([in_stream(noise, k).initial(like) for k in range(count)], 1)


def check_particles(x: Tensor, noise: Addressed) -> None:
    """Raise ValueError where x is no batch of particles or noise does not name its samples."""
    check_kind("noise", noise, Addressed, "Addressed(seed); each particle has a stream of it")
    if x.ndim < 3:
        raise ValueError(
            f"x: got shape {tuple(x.shape)}, expected (B, K, ...): K particles for each sample; see "
            "`starting_particles`"
        )
    if not x.shape[1]:
        raise ValueError(
            f"x: got shape {tuple(x.shape)}, expected (B, K, ...) with at least one particle for each sample; see "
            "`starting_particles`"
        )
    noise.check(0, x)


def for_particles(tree: Any, batch: int, count: int) -> Any:
    """Conditioning or context of `batch` samples for `count` particles of each: tensors are (B, ...), PerStep
    values (N, B, ...), repeated; what samples share, () or (1, ...), stays as it is.
    """

    def repeat(value: Tensor, axis: int) -> Tensor:
        if value.ndim <= axis or value.shape[axis] == 1 != batch:
            return value
        if value.shape[axis] != batch:
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


def flat_index(ancestors: Tensor) -> Tensor:
    """Particles (B, K), each named by its number in 0 .. K-1 within its sample, as rows (B K,) of the flat batch."""
    batch, count = ancestors.shape
    first = torch.arange(batch, device=ancestors.device)[:, None] * count
    return (first + ancestors).flatten()
