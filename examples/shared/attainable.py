"""The best that N Gaussian steps can do for E[r] - beta KL in the plane: dynamic programming on a grid."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from pullback.guidance import Chain
from pullback.solvers import Model, Noise, Plan


def best_gaussian_steps(
    plan: Plan,
    base: Model,
    reward: Callable[[Tensor], Tensor],
    beta: float,
    start: Tensor,
    noise: Noise,
    reach: float = 5.0,
    side: int = 181,
) -> tuple[Tensor, float]:
    """Samples of the best policy whose steps are N(m, s_k^2) like the base's N(m0, s_k^2), and its path KL in nats.

        V_N = r / beta,   V_k(x) = W_k(m0_k(x)),   W_k(z) = max_m (V_{k+1} * N(0, s_k^2))(m) - |m - z|^2 / (2 s_k^2)

    and the best mean is m = z + s_k^2 grad W_k(z). The tilted law p exp(r / beta) is what this comes to as N
    grows: at finite N its steps would not be Gaussian, and no network reaches it.

    Args:
        plan: steps that read the state alone, such as DDIM's. start: (B, 2) noise that the samples start from.
        reach, side: the grid's half width and its number of points along each axis.
    """
    line = torch.linspace(-reach, reach, side)
    grid = torch.stack(torch.meshgrid(line, line, indexing="ij"), 2)  # value[i, j] at (line[i], line[j])
    chain, at = Chain.of(plan, base, grid.reshape(-1, 2)), Chain.of(plan, base, start)
    value, slopes = (reward(grid.reshape(-1, 2)) / beta).reshape(side, side), []
    for k in reversed(range(plan.steps)):
        m0, s = chain.mean([grid.reshape(-1, 2)] * (k + 1), k), float(chain.std(k))
        best = envelope(smoothed(value, line, s), line, s)
        slopes.append(torch.stack(torch.gradient(best, spacing=(line, line)), 0))
        value = looked_up(best[None], m0, reach)[:, 0].reshape(side, side)
    x, kl = start, torch.zeros(len(start))
    for k, slope in enumerate(reversed(slopes)):
        m0, s = at.mean([x] * (k + 1), k), float(at.std(k))
        push = s * looked_up(slope, m0, reach)
        kl = kl + push.square().sum(1) / 2
        x = m0 + s * push + (s * noise(k, x) if s else 0.0)
    return x, float(kl.mean())


def looked_up(table: Tensor, points: Tensor, reach: float) -> Tensor:
    """A table (C, side, side) at points (P, 2) between the grid's: (P, C)."""
    where = points.flip(1)[None, None] / reach  # grid_sample wants the last axis first
    return F.grid_sample(table[None], where, mode="bicubic", padding_mode="border", align_corners=True)[
        0, :, 0
    ].T


def smoothed(value: Tensor, line: Tensor, s: float) -> Tensor:
    """value * N(0, s^2), axis by axis; to second order in s where the grid cannot resolve the kernel."""
    if s < 2 * float(line[1] - line[0]):
        return value + s**2 / 2 * sum(second_difference(value, axis, line) for axis in (0, 1))
    kernel = (-0.5 * ((line - line[:, None]) / s) ** 2).softmax(1)
    return kernel @ value @ kernel.T


def second_difference(value: Tensor, axis: int, line: Tensor) -> Tensor:
    return torch.gradient(torch.gradient(value, spacing=(line,), dim=axis)[0], spacing=(line,), dim=axis)[0]


def envelope(value: Tensor, line: Tensor, s: float) -> Tensor:
    """max_m value(m) - |m - z|^2 / (2 s^2) at every z of the grid, axis by axis."""
    if s < 2 * float(line[1] - line[0]):
        return value + s**2 / 2 * sum(part.square() for part in torch.gradient(value, spacing=(line, line)))
    cost = 0.5 * ((line - line[:, None]) / s) ** 2  # (z, m)
    for _ in range(2):
        value = best_along_last(value[:, None, :] - cost).T  # (other axis, z, m) to (z, other axis)
    return value


def best_along_last(gain: Tensor) -> Tensor:
    """The maximum over the last axis, of the parabola through the best point and its neighbours."""
    best = gain.argmax(-1, keepdim=True).clamp(1, gain.shape[-1] - 2)
    left, top, right = (gain.gather(-1, best + i)[..., 0] for i in (-1, 0, 1))
    bend = (2 * top - left - right).clamp(min=1e-12)
    return top + ((right - left).square() / (8 * bend)).nan_to_num()
