"""How the components of a mixture spread: one number each, a fixed matrix each, or a matrix that wants a gradient.

With S_k = alpha^2 C_k + sigma^2 I everything asked of a mixture comes down to S_k^-1 v, log det S_k and C_k v.
Fixed matrices are taken apart into eigenvectors once, so that S_k^-1 is a division at every noise level.
Eigenvectors of equal eigenvalues have no derivative, a Cholesky factor has: matrices that want a gradient are
factorised anew at every level.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from . import transport

Level = Tensor | float | int  # alpha or sigma: a number, or one for each sample, (B, 1, 1) in here
_Pair = tuple[Tensor, Tensor]  # (alpha, sigma), (n,) each


class Covariances(ABC):
    """Covariances C_k of K components in d dimensions.

    Attributes:
        variances: along the axes of each component, (K, d), or (K, 1) where all axes have one; detached.
        singular: whether one of them is 0 (to rounding).
    """

    variances: Tensor
    singular: bool

    @abstractmethod
    def solve(self, x: Tensor, means: Tensor, alpha: Level, sigma: Level) -> tuple[Tensor, Tensor]:
        """(q, e) with r = x - alpha m_k: q = S_k^-1 r in the frame of component k, (B, K, d), and
        e = r^T S_k^-1 r + log det S_k, (B, K).
        """

    @abstractmethod
    def total(self, v: Tensor) -> Tensor:
        """sum_k v_k, (B, d), of v (B, K, d) in the components' frames."""

    @abstractmethod
    def total_times_cov(self, v: Tensor) -> Tensor:
        """sum_k C_k v_k."""

    @abstractmethod
    def covs(self, d: int) -> Tensor:
        """C_k, (K, d, d)."""

    @abstractmethod
    def factors(self, d: int) -> Tensor:
        """L_k with L_k L_k^T = C_k, (K, d, d)."""

    @abstractmethod
    def drawn(self, which: Tensor, z: Tensor) -> Tensor:
        """L_k z for each draw's own component k = which (n,), z (n, d)."""

    @abstractmethod
    def noised(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """What S_k is written with, as C_k is: (K,) deviations or (K, d, d)."""

    @abstractmethod
    def transported(self, start: _Pair, end: _Pair) -> Tensor:
        """S_end^(1/2) S_start^(-1/2) of one component, (n, d, d), or (n, 1, 1) for a multiple of the identity."""


def covariances_of(given: Tensor) -> Covariances:
    """From standard deviations (K,) or covariances (K, d, d).

    Raises:
        ValueError: a negative deviation; a matrix that is not symmetric positive semi-definite, or not positive
            definite where it requires a gradient.
    """
    s = given.detach()
    if s.ndim == 1:
        if not bool((s >= 0).all()):
            raise ValueError(f"stds: got {s.tolist()}, expected numbers >= 0; give standard deviations")
        return _Isotropic(given)
    size = float(s.abs().max())
    slack = 64 * s.shape[-1] * torch.finfo(s.dtype).eps * size
    if not float((s - s.mT).abs().max()) <= slack:
        raise ValueError(
            "covs: got a matrix that is not symmetric or not finite, expected covariances; pass (C + C.mT)/2"
        )
    values, vectors = torch.linalg.eigh(s)
    least = float(values.min())
    if least < -slack or (given.requires_grad and least <= 0):
        raise ValueError(
            f"covs: got least eigenvalue {least:.3g}, expected a positive semi-definite covariance "
            "(positive definite where it requires a gradient); add a small multiple of the identity"
        )
    kind = _Learned if given.requires_grad else _Fixed
    return kind(given, values.clamp(min=0.0), vectors, least <= slack)


def rounded(covs: Tensor, before: torch.dtype) -> Tensor:
    """Covariances (K, d, d) that come from the dtype `before`, without what its rounding left in them: asymmetry, and
    negative eigenvalues, which a wider dtype would no longer take for rounding.
    """
    covs = (covs + covs.mT) / 2
    values, vectors = torch.linalg.eigh(covs.detach())
    slack = 64 * covs.shape[-1] * torch.finfo(before).eps * float(values.abs().max())
    if not -slack <= float(values.min()) < 0:
        return covs
    lift = (-values).clamp(min=0.0)
    return covs + vectors @ (lift[..., None] * vectors.mT)


def _positive(variances: Tensor, singular: bool) -> Tensor:
    """At sigma = 0 with a singular C the limit sigma -> 0 instead of 0/0."""
    return variances.clamp(min=torch.finfo(variances.dtype).tiny ** 0.5) if singular else variances


class _Isotropic(Covariances):
    """C_k = stds_k^2 I; every direction is an axis."""

    def __init__(self, stds: Tensor) -> None:
        self.stds, self.variances = stds, (stds.detach() ** 2)[:, None]
        self.singular = bool((self.variances == 0).any())

    def solve(self, x: Tensor, means: Tensor, alpha: Level, sigma: Level) -> tuple[Tensor, Tensor]:
        r = x[:, None] - alpha * means
        s2 = _positive((alpha * self.stds[:, None]) ** 2 + sigma**2, self.singular)
        q = r / s2
        return q, (r * q).sum(-1) + s2.log()[..., 0] * x.shape[1]

    def total(self, v: Tensor) -> Tensor:
        return v.sum(1)

    def total_times_cov(self, v: Tensor) -> Tensor:
        return (self.stds[:, None] ** 2 * v).sum(1)

    def covs(self, d: int) -> Tensor:
        return self.stds[:, None, None] ** 2 * torch.eye(d).to(self.stds)

    def factors(self, d: int) -> Tensor:
        return self.stds[:, None, None] * torch.eye(d).to(self.stds)

    def drawn(self, which: Tensor, z: Tensor) -> Tensor:
        return self.stds[which, None] * z

    def noised(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return torch.hypot(alpha * self.stds, sigma.expand_as(self.stds))

    def transported(self, start: _Pair, end: _Pair) -> Tensor:
        return transport.gaussian_map(self.stds[:, None] ** 2, None, None, start, end)


class _Fixed(Covariances):
    """C_k = V_k diag(variances_k) V_k^T; the frame of component k is V_k."""

    def __init__(self, covs: Tensor, variances: Tensor, vectors: Tensor, singular: bool) -> None:
        self.given, self.variances, self.vectors, self.singular = covs, variances, vectors, singular
        self.flat = vectors.permute(1, 0, 2).reshape(
            vectors.shape[-1], -1
        )  # all frames side by side, (d, K d)

    def solve(self, x: Tensor, means: Tensor, alpha: Level, sigma: Level) -> tuple[Tensor, Tensor]:
        m = (means[:, None] @ self.vectors)[:, 0]
        r = (x @ self.flat).view(len(x), *m.shape) - alpha * m
        s2 = _positive(alpha**2 * self.variances + sigma**2, self.singular)
        q = r / s2
        return q, (r * q).sum(-1) + s2.log().sum(-1)

    def total(self, v: Tensor) -> Tensor:
        return v.flatten(1) @ self.flat.T

    def total_times_cov(self, v: Tensor) -> Tensor:
        return self.total(self.variances * v)

    def covs(self, d: int) -> Tensor:
        return self.given

    def factors(self, d: int) -> Tensor:
        return self.vectors * self.variances.sqrt()[:, None]

    def drawn(self, which: Tensor, z: Tensor) -> Tensor:
        return (self.factors(z.shape[1])[which] @ z[..., None])[..., 0]

    def noised(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return alpha**2 * self.given + sigma**2 * torch.eye(len(self.flat)).to(self.given)

    def transported(self, start: _Pair, end: _Pair) -> Tensor:
        return transport.gaussian_map(self.variances, self.vectors, None, start, end)


class _Learned(Covariances):
    """C_k that require a gradient, positive definite; the frames are the coordinates'."""

    def __init__(self, covs: Tensor, variances: Tensor, vectors: Tensor, singular: bool) -> None:
        self.given, self.variances, self.vectors, self.singular = covs, variances, vectors, singular

    def solve(self, x: Tensor, means: Tensor, alpha: Level, sigma: Level) -> tuple[Tensor, Tensor]:
        a, s = (v[..., None] if isinstance(v, Tensor) and v.ndim else v for v in (alpha, sigma))
        eye = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        factor = torch.linalg.cholesky(a**2 * self.given + s**2 * eye)
        r = x[:, None] - alpha * means
        q = torch.cholesky_solve(r[..., None], factor.expand(*r.shape, -1))[..., 0]
        return q, (r * q).sum(-1) + 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def total(self, v: Tensor) -> Tensor:
        return v.sum(1)

    def total_times_cov(self, v: Tensor) -> Tensor:
        return torch.einsum("bkd,kde->be", v, self.given)

    def covs(self, d: int) -> Tensor:
        return self.given

    def factors(self, d: int) -> Tensor:
        return torch.linalg.cholesky(self.given)

    def drawn(self, which: Tensor, z: Tensor) -> Tensor:
        return (self.factors(z.shape[1])[which] @ z[..., None])[..., 0]

    def noised(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return alpha**2 * self.given + sigma**2 * torch.eye(self.given.shape[-1]).to(self.given)

    def transported(self, start: _Pair, end: _Pair) -> Tensor:
        return transport.gaussian_map(self.variances, self.vectors, self.given, start, end)
