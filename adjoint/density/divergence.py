"""Divergences: the trace of a Jacobian, exactly or by probes, from products of its transpose with vectors."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from ...solvers.checked import CheckedFields
from ...solvers.full_precision import full_precision
from ...solvers.noise import Addressed, Noise
from ...solvers.wanted import Count

# vectors (K, B, D) -> M^T v of each, for a matrix M (D, D) of each of B samples
Pull = Callable[[Tensor], Tensor]


class FlowDivergence(CheckedFields, ABC):
    """How the trace of a D x D matrix M is had from its products M^T v.

    A `lane` is one estimate of the trace. Its probes are drawn once and stay the same along the whole way, so that
    the log density of a lane solves an ODE of its own, to the order of the plan; lanes differ by their probes alone.

    Attributes:
        chunk: products made side by side (vmap over the backward pass); 1 for networks whose backward cannot be.
    """

    chunk: Count
    exact: bool = False

    @property
    def lanes(self) -> int:
        """Independent estimates R."""
        return 1

    @abstractmethod
    def products(self, dims: int) -> int:
        """VJPs of a network call, for states of `dims` numbers."""

    def probes(self, like: Tensor) -> Tensor:
        """What one run needs, (K, B, D), for states like (B, D)."""
        return like.new_empty(0, *like.shape)

    @abstractmethod
    def traces(self, pull: Pull, probes: Tensor) -> Tensor:
        """tr M of every sample, (B, R)."""

    def quadratic(self, pull: Pull, vectors: Tensor) -> Tensor:
        """v^T M v, (K, B), of vectors (K, B, D)."""
        return torch.cat([(pull(part) * part).sum(-1) for part in vectors.split(self.chunk)])


@dataclass(frozen=True)
class ExactDivergence(FlowDivergence):
    """tr M = sum_i e_i^T M e_i. Cost: D VJPs a network call."""

    chunk: Count = 16
    exact = True

    def products(self, dims: int) -> int:
        return dims

    def probes(self, like: Tensor) -> Tensor:
        return torch.eye(like.shape[1], dtype=like.dtype, device=like.device)[:, None].expand(-1, *like.shape)

    def traces(self, pull: Pull, probes: Tensor) -> Tensor:
        return self.quadratic(pull, probes).sum(0)[:, None]


class Probe(Enum):
    """The law of a probe v, E[v v^T] = 1. Signs have the least variance of all, 2 sum_(i != j) M_ij^2 of a symmetric
    M, none where M is diagonal; normal ones have 2 |M|^2.
    """

    SIGNS = "signs"
    NORMAL = "normal"

    def drawn(self, noise: Noise, count: int, like: Tensor) -> Tensor:
        """(count, B, ...): probes of `noise`, a slot each."""
        noise.check(count, like)
        normal = torch.stack([noise(slot, like) for slot in range(count)])
        if self is Probe.NORMAL:
            return normal
        return torch.where(normal < 0, -torch.ones_like(normal), torch.ones_like(normal))


@dataclass(frozen=True)
class Hutchinson(FlowDivergence):
    """tr M = E[v^T M v]. Source: Hutchinson 1989; for log densities Grathwohl et al. 2019, arXiv 1810.01367.

    Args:
        count: probes, each a lane; from two on the error is known.
        probe: their law.
        noise: where they come from; `Addressed(seed, samples=ids)` gives a sample the same in any batch.

    Cost: `count` VJPs a network call; the probes are held, `count` states.
    """

    count: Count = 16
    probe: Probe = Probe.SIGNS
    noise: Noise = Addressed(0)  # noqa: RUF009
    chunk: Count = 16

    @property
    def lanes(self) -> int:
        return self.count

    def products(self, dims: int) -> int:
        return self.count

    def probes(self, like: Tensor) -> Tensor:
        return self.probe.drawn(self.noise, self.count, like)

    def traces(self, pull: Pull, probes: Tensor) -> Tensor:
        return self.quadratic(pull, probes).T


@dataclass(frozen=True)
class HutchPP(FlowDivergence):
    """tr M = tr Q^T M Q + E[v^T P M P v],  Q an orthonormal basis of M^T S (D, sketch),  P = 1 - Q Q^T.

    Exact where the rank of M is at most `sketch`; else what Hutchinson's error is made of is only what Q leaves over.
    M is the Jacobian less that for data of the variances that `log_prob` is given, so low rank means data that differ
    from independent normal numbers in few directions. Q is held constant by a gradient: for any Q the estimate is
    unbiased, and so is its gradient.

    Args:
        sketch: columns of S.
        count, probe, noise: as of `Hutchinson`, for v; S is made of slots of the same source.

    Cost: 2 sketch + count VJPs a network call, and a QR decomposition (D, sketch) of every sample.
    Source: Meyer et al. 2021, arXiv 2010.09649, algorithm 1 (there sketch = count).
    """

    sketch: Count = 8
    count: Count = 8
    probe: Probe = Probe.SIGNS
    noise: Noise = Addressed(0)  # noqa: RUF009
    chunk: Count = 16

    @property
    def lanes(self) -> int:
        return self.count

    def products(self, dims: int) -> int:
        return self.sketch + min(self.sketch, dims) + self.count

    def probes(self, like: Tensor) -> Tensor:
        return self.probe.drawn(self.noise, self.count + self.sketch, like)

    def traces(self, pull: Pull, probes: Tensor) -> Tensor:
        v, s = probes[: self.count], probes[self.count :]
        image = torch.cat([pull(part).detach() for part in s.split(self.chunk)])
        q = torch.linalg.qr(image.permute(1, 2, 0)).Q  # (B, D, k)
        inside = self.quadratic(pull, q.permute(2, 0, 1)).sum(0)
        with full_precision(q):
            v = v - torch.einsum("bdk,bek,nbe->nbd", q, q, v)
        return (inside + self.quadratic(pull, v)).T
