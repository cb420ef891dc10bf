"""Toy models with exact answers: Gaussian mixtures, their denoiser, marginals, posteriors and tilted laws.

The covariances are diagonalised once, so that S_t = alpha^2 C + sigma^2 I is inverted by dividing by its eigenvalues.
States may have any shape (B, ...) whose size per sample is d. Differentiable in x and in every parameter.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .model import Denoiser
from .prediction import DATA
from .process import Process, as_time


@dataclass(frozen=True, eq=False)
class Mixture:
    """p(x_0) = sum_k weights_k N(means_k, covs_k).

    Args:
        weights: (K,) positive, summing to one. means: (K, d). covs: (K, d, d) symmetric positive semi-definite.
    """

    weights: Tensor
    means: Tensor
    covs: Tensor

    def __post_init__(self) -> None:
        k, d = self.means.shape if self.means.ndim == 2 else (-1, -1)
        if self.weights.shape != (k,) or self.covs.shape != (k, d, d):
            raise ValueError(f"mixture: got weights {tuple(self.weights.shape)}, means {tuple(self.means.shape)}, covs "
                             f"{tuple(self.covs.shape)}; expected (K,), (K, d), (K, d, d)")
        if bool((self.weights <= 0).any()) or abs(float(self.weights.detach().sum()) - 1) > 1e-4:
            raise ValueError(f"mixture: got weights {self.weights.tolist()}, expected positive ones summing to 1; divide by the sum")
        if float(self._spectrum[0].detach().min()) < -1e-6 * float(self.covs.detach().abs().max() + 1e-30):
            raise ValueError("mixture: got a covariance with a negative eigenvalue, expected positive semi-definite ones")

    @staticmethod
    def isotropic(weights: Tensor, means: Tensor, stds: Tensor) -> "Mixture":
        """Components N(means_k, stds_k^2 I); stds (K,) or a scalar tensor."""
        eye = torch.eye(means.shape[1], dtype=means.dtype, device=means.device)
        return Mixture(weights, means, stds.to(means).expand(len(means))[:, None, None] ** 2 * eye)

    @cached_property
    def _spectrum(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues (K, d) and eigenvectors (K, d, d); multiples of I skip the decomposition, whose gradient is singular there."""
        level = self.covs.diagonal(dim1=1, dim2=2)
        if torch.equal(self.covs, torch.diag_embed(level)):
            return level, torch.eye(level.shape[1], dtype=level.dtype, device=level.device).expand_as(self.covs)
        return torch.linalg.eigh(self.covs)

    def to(self, like: Tensor) -> "Mixture":
        """The same law in the dtype and device of `like`."""
        if like.dtype == self.means.dtype and like.device == self.means.device:
            return self
        return Mixture(self.weights.to(like), self.means.to(like), self.covs.to(like))

    def _terms(self, x: Tensor, alpha: Tensor | float, sigma: Tensor | float, shift: Tensor | None) -> tuple[Tensor, ...]:
        """Flat x (B, 1, d) rotated residuals (B, K, d), eigenvalues of S (B, K, d), alpha (B, 1, 1), shifted means."""
        alpha, sigma = (torch.as_tensor(v).to(x).reshape(-1, 1, 1) for v in (alpha, sigma))
        values, vectors = self._spectrum
        means = self.means if shift is None else self.means + shift.reshape(-1, 1, self.means.shape[1])
        residual = torch.einsum("kij,bki->bkj", vectors, x.flatten(1)[:, None] - alpha * means)
        return residual, alpha**2 * values + sigma**2, alpha, means

    def _log_parts(self, residual: Tensor, total: Tensor) -> Tensor:
        quadratic = (residual**2 / total).sum(-1) + total.log().sum(-1) + total.shape[-1] * math.log(2 * math.pi)
        return self.weights.log() - quadratic / 2

    def log_prob(self, x: Tensor, alpha: Tensor | float = 1.0, sigma: Tensor | float = 0.0) -> Tensor:
        """log density (B,) of x_t = alpha x_0 + sigma eps at x (B, ...)."""
        model = self.to(x)
        residual, total, _, _ = model._terms(x, alpha, sigma, None)
        return model._log_parts(residual, total).logsumexp(1)

    def responsibilities(self, x: Tensor, alpha: Tensor | float = 1.0, sigma: Tensor | float = 0.0) -> Tensor:
        """p(component | x_t = x), (B, K)."""
        model = self.to(x)
        residual, total, _, _ = model._terms(x, alpha, sigma, None)
        return model._log_parts(residual, total).softmax(1)

    def denoise(self, x: Tensor, alpha: Tensor | float, sigma: Tensor | float, shift: Tensor | None = None) -> Tensor:
        """E[x_0 | x_t = x] = sum_k r_k (mu_k + alpha C_k S_k^-1 (x - alpha mu_k)); legal at alpha = 0 and sigma = 0.

        Args:
            x: (B, ...). alpha, sigma: scalars or (B,). shift: added to all means, (d,) or (B, d).
        """
        model = self.to(x)
        residual, total, alpha, means = model._terms(x, alpha, sigma, shift)
        parts = model._log_parts(residual, total).softmax(1)
        values, vectors = model._spectrum
        inner = torch.einsum("kij,bkj->bki", vectors, alpha * values / total * residual)
        return (parts[..., None] * (means + inner)).sum(1).reshape(x.shape)

    def score(self, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        """grad log p_t(x) = -(sum_k r_k S_k^-1 (x - alpha mu_k))."""
        model = self.to(x)
        residual, total, _, _ = model._terms(x, alpha, sigma, None)
        parts = model._log_parts(residual, total).softmax(1)
        inner = torch.einsum("kij,bkj->bki", model._spectrum[1], residual / total)
        return -(parts[..., None] * inner).sum(1).reshape(x.shape)

    def denoiser(self, process: Process) -> Denoiser:
        """The exact DATA prediction as a Denoiser; `cond` shifts all means: (d,) or (B, d)."""

        def network(x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
            return self.denoise(x, process.alpha(t), process.sigma(t), cond)

        return Denoiser(network, process, DATA)

    def marginal(self, alpha: float, sigma: float) -> "Mixture":
        """The law of x_t."""
        eye = torch.eye(self.means.shape[1], dtype=self.means.dtype, device=self.means.device)
        return Mixture(self.weights, alpha * self.means, alpha**2 * self.covs + sigma**2 * eye)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n exact draws (n, d)."""
        pick = torch.multinomial(self.weights.detach(), n, replacement=True, generator=generator)
        values, vectors = self._spectrum
        eps = torch.randn(n, self.means.shape[1], generator=generator, dtype=self.means.dtype, device=self.means.device)
        return self.means[pick] + torch.einsum("nij,nj->ni", vectors[pick], values.clamp(min=0)[pick].sqrt() * eps)

    def flow(self, x: Tensor, process: Process, start: float, end: float, steps: int = 2000) -> Tensor:
        """The probability flow from time start to end by `steps` classical Runge-Kutta steps of dy/dlambda = D - y.

        Both times need a finite lambda. Numerical: about 1e-11 in float64 at 2000 steps over 10 units of lambda.
        """
        lams = torch.linspace(float(process.lam(start)), float(process.lam(end)), 2 * steps + 1, dtype=torch.float64)
        alphas = process.log_alpha_at(lams).exp() if hasattr(process, "log_alpha_at") else process.alpha(process.time(lams))
        a, s = alphas.tolist(), (alphas * torch.exp(-lams)).tolist()
        h = float(lams[2] - lams[0])

        def slope(y: Tensor, k: int) -> Tensor:
            return self.denoise(a[k] * y, a[k], s[k]) - y

        y = x / a[0]
        for k in range(0, 2 * steps, 2):
            k1 = slope(y, k)
            k2 = slope(y + h / 2 * k1, k + 1)
            k3 = slope(y + h / 2 * k2, k + 1)
            y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + slope(y + h * k3, k + 2))
        return y * a[-1]

    def posterior(self, a: Tensor, y: Tensor, noise_std: float) -> "Mixture":
        """p(x_0 | y) for y = A x_0 + noise_std n: a (m, d), y (m,). Exact, with the weights updated by the evidence."""
        if a.ndim != 2 or a.shape[1] != self.means.shape[1] or y.shape != a.shape[:1] or not noise_std > 0:
            raise ValueError(f"posterior: got A {tuple(a.shape)}, y {tuple(y.shape)}, noise_std={noise_std}; expected (m, "
                             f"{self.means.shape[1]}), (m,) and noise_std > 0")
        spread, gain = self._gain(a, noise_std)
        residual = y - self.means @ a.T
        covs = self.covs - gain @ a @ self.covs
        log = self.weights.log() + torch.distributions.MultivariateNormal(torch.zeros_like(residual), spread).log_prob(residual)
        means = self.means + torch.einsum("kdm,km->kd", gain, residual)
        return Mixture(log.softmax(0), means, (covs + covs.mT) / 2)

    def evidence(self, a: Tensor, y: Tensor, noise_std: float) -> Tensor:
        """log p(y) for the measurement of `posterior`."""
        residual = y - self.means @ a.T
        law = torch.distributions.MultivariateNormal(torch.zeros_like(residual), self._gain(a, noise_std)[0])
        return (self.weights.log() + law.log_prob(residual)).logsumexp(0)

    def _gain(self, a: Tensor, noise_std: float) -> tuple[Tensor, Tensor]:
        spread = a @ self.covs @ a.T + noise_std**2 * torch.eye(len(a), dtype=a.dtype, device=a.device)
        return spread, torch.linalg.solve(spread, a @ self.covs).mT

    def tilted(self, linear: Tensor, quadratic: Tensor | None = None, beta: float = 1.0) -> tuple["Mixture", Tensor]:
        """p(x) exp(r(x)/beta) / Z for r(x) = linear.x - x.quadratic.x / 2, exact: the law and log Z.

        Args:
            linear: (d,). quadratic: (d, d) symmetric, such that I + C quadratic/beta stays positive. Covariances > 0.
        """
        d = self.means.shape[1]
        if linear.shape != (d,) or not beta > 0 or (quadratic is not None and quadratic.shape != (d, d)):
            raise ValueError(f"tilted: got linear {tuple(linear.shape)}, beta={beta}; expected ({d},), quadratic ({d}, {d}), beta > 0")
        precision = torch.linalg.inv(self.covs)
        raised = precision + (0 if quadratic is None else quadratic / beta)
        if float(torch.linalg.eigvalsh(raised.detach()).min()) <= 0:
            raise ValueError("tilted: got a reward that grows faster than the density falls, expected a normalisable law; "
                             "raise beta or make quadratic positive")
        pull = torch.einsum("kij,kj->ki", precision, self.means) + linear / beta
        covs = torch.linalg.inv(raised)
        means = torch.einsum("kij,kj->ki", covs, pull)
        log = self.weights.log() + 0.5 * (torch.logdet(covs) - torch.logdet(self.covs) + (means * pull).sum(1)
                                          - torch.einsum("ki,kij,kj->k", self.means, precision, self.means))
        return Mixture(log.softmax(0), means, (covs + covs.mT) / 2), log.logsumexp(0)


class Gaussian(Mixture):
    """One component N(mean, cov), with the closed forms only a Gaussian has."""

    def __init__(self, mean: Tensor, cov: Tensor) -> None:
        super().__init__(torch.ones(1, dtype=mean.dtype, device=mean.device), mean[None], cov[None])

    def exact_flow(self, x: Tensor, process: Process, start: float, end: float) -> Tensor:
        """x_t = alpha_t m + S_t^(1/2) S_s^(-1/2) (x_s - alpha_s m), S = alpha^2 C + sigma^2 I; the ends may be infinite in lambda."""
        values, vectors = self._spectrum
        t = as_time([start, end])
        (a0, a1), (s0, s1) = process.alpha(t).tolist(), process.sigma(t).tolist()
        ratio = ((a1**2 * values[0] + s1**2) / (a0**2 * values[0] + s0**2)).sqrt()
        moved = ((x.flatten(1) - a0 * self.means[0]) @ vectors[0] * ratio) @ vectors[0].T
        return (a1 * self.means[0] + moved).reshape(x.shape)
