"""Exact laws of a Gaussian mixture under a linear measurement and under an exponential reward: plain tensor algebra.

Each component is m_k, C_k = L_k L_k^T with weight exp(log_w_k); a factor L keeps singular covariances legal.
"""

import math

import torch
from torch import Tensor


def cholesky(matrix: Tensor, what: str, change: str) -> Tensor:
    """Lower Cholesky factor, or ValueError "`what`: got ..., expected positive definite; `change`"."""
    factor, info = torch.linalg.cholesky_ex(matrix)
    # a singular matrix may pass by rounding: its last pivot is then a few eps of what it was taken from
    rounding = 4 * matrix.shape[-1] * torch.finfo(matrix.dtype).eps * matrix.diagonal(dim1=-2, dim2=-1)
    if bool(info.any()) or bool((factor.diagonal(dim1=-2, dim2=-1).square() <= rounding).any()):
        least = float(torch.linalg.eigvalsh(matrix.detach()).min())
        raise ValueError(f"{what}: got least eigenvalue {least:.3g}, expected positive definite; {change}")
    return factor


def measured(
    means: Tensor, a: Tensor, y: Tensor, noise_std: Tensor | float | int
) -> tuple[Tensor, Tensor, Tensor]:
    """A, y and noise_std checked, in the model's dtype and on its device."""
    if a.ndim != 2 or a.shape[1] != means.shape[1] or y.ndim < 1 or y.shape[-1] != len(a):
        raise ValueError(
            f"measurement: got A {tuple(a.shape)} and y {tuple(y.shape)}, expected (m, {means.shape[1]}) and "
            "(..., m); transpose A or flatten y"
        )
    if not float(noise_std) >= 0:
        raise ValueError(f"noise_std: got {float(noise_std)}, expected >= 0; pass a standard deviation")
    return a.to(means), y.to(means), torch.as_tensor(noise_std, dtype=means.dtype, device=means.device)


def reward(
    means: Tensor, linear: Tensor | None, quadratic: Tensor | None, beta: Tensor | float | int
) -> tuple[Tensor, Tensor]:
    """linear / beta and quadratic / beta checked, zeros where not given."""
    d = means.shape[1]
    b = means.new_zeros(d) if linear is None else linear.to(means)
    q = means.new_zeros(d, d) if quadratic is None else quadratic.to(means)
    if b.shape != (d,) or q.shape != (d, d) or not torch.allclose(q, q.mT):
        raise ValueError(
            f"reward: got linear {tuple(b.shape)}, quadratic {tuple(q.shape)}, expected ({d},) and a "
            f"symmetric ({d}, {d}); symmetrise as (Q + Q.mT)/2"
        )
    if not float(beta) > 0:
        raise ValueError(f"beta: got {float(beta)}, expected > 0; to lower r flip its sign")
    scale = torch.as_tensor(beta, dtype=means.dtype, device=means.device)
    return b / scale, q / scale


def _log_det(factor: Tensor) -> Tensor:
    return 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def _innovation(
    means: Tensor, factors: Tensor, a: Tensor, y: Tensor, noise_std: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """A L (K, m, d), the Cholesky factor of G = A C A^T + noise_std^2 I, and y - A m (..., K, m)."""
    al = a @ factors
    g = al @ al.mT + noise_std**2 * torch.eye(len(a), dtype=a.dtype, device=a.device)
    return (
        al,
        cholesky(g, "A C A^T + noise_std^2 I", "raise noise_std, or drop dependent rows of A"),
        (y[..., None, :] - means @ a.mT),
    )


def log_evidence(
    log_w: Tensor, means: Tensor, factors: Tensor, a: Tensor, y: Tensor, noise_std: Tensor
) -> Tensor:
    """log w_k + log N(y; A m_k, A C_k A^T + noise_std^2 I), (..., K) for y (..., m)."""
    _, chol, rest = _innovation(means, factors, a, y, noise_std)
    white = torch.linalg.solve_triangular(chol, rest[..., None], upper=False)[..., 0]
    return log_w - 0.5 * ((white**2).sum(-1) + _log_det(chol) + len(a) * math.log(2 * math.pi))


def posterior(
    log_w: Tensor, means: Tensor, factors: Tensor, a: Tensor, y: Tensor, noise_std: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(log_w, means, covs) of x | y. With gain K = C A^T G^-1:  m' = m + K (y - A m),  C' = (I - K A) C (I -
    K A)^T + noise_std^2 K K^T  (Joseph's form: stays positive semi-definite in floating point).
    """
    al, chol, rest = _innovation(means, factors, a, y, noise_std)
    gain = torch.cholesky_solve(al @ factors.mT, chol).mT
    left = factors - gain @ al
    covs = left @ left.mT + noise_std**2 * gain @ gain.mT
    log_w = log_evidence(log_w, means, factors, a, y, noise_std)
    return log_w, means + (gain @ rest[..., None])[..., 0], covs


def tilted(
    log_w: Tensor, means: Tensor, factors: Tensor, b: Tensor, q: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(log_w, means, covs) of p(x) exp(b.x - x^T Q x / 2), log_w unnormalised: its logsumexp is the log normaliser.

    With H = I + L^T Q L and h = b - Q m:  C' = L H^-1 L^T,  m' = m + C' h,
    log Z = b.m - m^T Q m / 2 + h^T C' h / 2 - log det H / 2.
    """
    eye = torch.eye(means.shape[-1], dtype=means.dtype, device=means.device)
    chol = cholesky(
        eye + factors.mT @ q @ factors,
        "I + L^T Q L / beta of a component",
        "the tilted law cannot be normalised: raise beta or make quadratic positive semi-definite",
    )
    root = torch.linalg.solve_triangular(chol, factors.mT, upper=False).mT  # C' = root root^T
    h = b - means @ q
    push = (root.mT @ h[..., None])[..., 0]
    log_z = means @ b - 0.5 * ((means @ q) * means).sum(-1) + 0.5 * (push**2).sum(-1) - 0.5 * _log_det(chol)
    return log_w + log_z, means + (root @ push[..., None])[..., 0], root @ root.mT
