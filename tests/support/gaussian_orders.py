"""Test B: weak and strong errors of a stochastic plan on Gaussian data, by moment recursion and without Monte Carlo."""

from collections.abc import Sequence

import numpy as np
import torch
from problems import PROCESS

from pullback.solvers import DATA, Method, Plan, Prediction, UniformLambda, moments, response

MEAN, VARIANCE = 0.7, 0.25


def on_test_b(method: Method, n: int) -> tuple[Plan, list[tuple[float, float]]]:
    """The plan from lambda = -2 to 2.5 and the exact (mean, variance) at both ends for data N(0.7, 0.25)."""
    t = PROCESS.time(torch.tensor([-2.0, 2.5]))
    alpha, sigma = PROCESS.alpha(t), PROCESS.sigma(t)
    laws = [
        (float(a) * MEAN, float(a) ** 2 * VARIANCE + float(s) ** 2) for a, s in zip(alpha, sigma, strict=True)
    ]
    return method.plan(PROCESS, UniformLambda(n, start=float(t[0]), end=float(t[1]))), laws


def weak_error(method: Method, n: int) -> float:
    plan, (first, last) = on_test_b(method, n)
    return abs(moments(plan, MEAN, VARIANCE, *first)[1] - last[1])


def strong_error(
    method: Method, n: int, tau: float, ends: Sequence[float] = (1.0,), side: Prediction = DATA
) -> float:
    """Root mean square distance to the exact solution driven by the same Brownian path.

    On z = x/sigma the SDE is dz = (-tau^2 z + c e^lambda D) dlambda + sqrt(2) tau dW, and D is affine in z,
    so the exact solution is Phi x_0 + const + sigma_T INT K dW with K(u) = sqrt(2) tau e^{-tau^2 (T - u)}
    (S_T/S_u)^{c/2}, S = 1 + e^{2 lambda} v. A slot is INT e^{-tau^2 (lambda_t - u)} dW of its step,
    normalised, or of its part of it, of those that end at the fractions `ends`; of e^{lambda_t - u} where the noise
    prediction is held.
    """
    plan, (first, last) = on_test_b(method, n)
    c = response(plan, MEAN, VARIANCE)
    t = torch.tensor(plan.times, dtype=torch.float64)
    lam, end = PROCESS.lam(t), float(PROCESS.sigma(t)[-1])

    def spread(u: torch.Tensor) -> torch.Tensor:
        return 1 + torch.exp(2 * u) * VARIANCE

    def kernel(u: torch.Tensor) -> torch.Tensor:
        return (
            end
            * torch.exp(-(tau**2) * (lam[-1] - u))
            * (spread(lam[-1]) / spread(u)) ** ((1 + tau**2) / 2)
            * 2**0.5
            * tau
        )

    points, weights = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(8))
    whole, rate = lam.diff(), tau**2 if side == DATA else -1.0
    parts = torch.cat([lam[:1], (lam[:-1, None] + whole[:, None] * torch.tensor(ends)).flatten()])
    h = parts.diff()
    u = (parts[:-1, None] + parts[1:, None]) / 2 + h[:, None] / 2 * points
    own = torch.exp(-rate * (parts[1:, None] - u)) * (2 * rate / -torch.expm1(-2 * rate * h[:, None])).sqrt()
    missed = ((c[2:, None] * own - kernel(u)) ** 2 * weights * h[:, None] / 2).sum()
    grown = kernel(lam[0]) / (2**0.5 * tau * PROCESS.sigma(t)[0])  # of the start's deviation
    bias = c[0] + c[1] * first[0] - last[0]
    return float((missed + (c[1] - grown) ** 2 * first[1] + bias**2).sqrt())
