"""Reference probability flow between noise levels: an order-8 integrator, and the Gaussian's closed form."""

from collections.abc import Callable

import torch
from torch import Tensor

_R = 21**0.5
# Cooper and Verner 1972 (SIAM J. Numer. Anal. 9, 389), 11 stages, order 8: rows of (stage, coefficient).
_STAGES = (
    (),
    ((0, 1 / 2),),
    ((0, 1 / 4), (1, 1 / 4)),
    ((0, 1 / 7), (1, (-7 - 3 * _R) / 98), (2, (21 + 5 * _R) / 49)),
    ((0, (11 + _R) / 84), (2, (18 + 4 * _R) / 63), (3, (21 - _R) / 252)),
    ((0, (5 + _R) / 48), (2, (9 + _R) / 36), (3, (-231 + 14 * _R) / 360), (4, (63 - 7 * _R) / 80)),
    ((0, (10 - _R) / 42), (2, (-432 + 92 * _R) / 315), (3, (633 - 145 * _R) / 90), (4, (-504 + 115 * _R) / 70),
     (5, (63 - 13 * _R) / 35)),
    ((0, 1 / 14), (4, (14 - 3 * _R) / 126), (5, (13 - 3 * _R) / 63), (6, 1 / 9)),
    ((0, 1 / 32), (4, (91 - 21 * _R) / 576), (5, 11 / 72), (6, (-385 - 75 * _R) / 1152), (7, (63 + 13 * _R) / 128)),
    ((0, 1 / 14), (4, 1 / 9), (5, (-733 - 147 * _R) / 2205), (6, (515 + 111 * _R) / 504), (7, (-51 - 11 * _R) / 56),
     (8, (132 + 28 * _R) / 245)),
    ((4, (-42 + 7 * _R) / 18), (5, (-18 + 28 * _R) / 45), (6, (-273 - 53 * _R) / 72), (7, (301 + 53 * _R) / 72),
     (8, (28 - 28 * _R) / 45), (9, (49 - 7 * _R) / 18)),
)  # fmt: skip
_WEIGHTS = ((0, 1 / 20), (7, 49 / 180), (8, 16 / 45), (9, 49 / 180), (10, 1 / 20))
_NODES = tuple(sum(a for _, a in row) for row in _STAGES)


def runge_kutta_8(
    slope: Callable[[Tensor, Tensor], Tensor], u: Tensor, end: Tensor, x: Tensor, steps: int
) -> Tensor:
    """x(end) of dx/du = slope(u, x), `steps` equal steps of order 8; u and end are (B, 1), x is (B, d)."""
    h = (end - u) / steps
    for i in range(steps):
        ks: list[Tensor] = []
        for c, row in zip(_NODES, _STAGES, strict=True):
            ks.append(slope(u + (i + c) * h, x + h * sum((a * ks[j] for j, a in row), torch.zeros_like(x))))
        x = x + h * sum((b * ks[j] for j, b in _WEIGHTS), torch.zeros_like(x))
    return x


def flow(
    both: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]],
    x: Tensor,
    start: tuple[Tensor, Tensor],
    end: tuple[Tensor, Tensor],
    small: float,
    large: float,
    steps: int,
) -> Tensor:
    """The probability flow from (alpha, sigma) = start to end, infinite lambda included.

    The flow is homogeneous: only alpha : sigma matters. So it runs on the path alpha = 1 - w/large, sigma = w
    - small, w = e^u, where x' = alpha' D + sigma' E, D = E[x_0|x], E = E[eps|x]: logarithmic between the
    data's smallest and largest scale, linear beyond them, and finite at sigma = 0 (w = small) and at alpha =
    0 (w = large).
    """

    def place(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        alpha, sigma = (p.reshape(-1, 1) for p in pair)
        below = alpha + sigma / large
        return torch.log((sigma + small * alpha) / below), (1 - small / large) / below

    def slope(u: Tensor, x: Tensor) -> Tensor:
        w = u.exp()
        data, noise = both(x, (1 - w / large).clamp(min=0.0)[:, 0], (w - small).clamp(min=0.0)[:, 0])
        return w * (noise - data / large)

    (u0, c0), (u1, c1) = place(start), place(end)
    u0, u1 = torch.broadcast_tensors(u0, u1)
    return runge_kutta_8(slope, u0, u1, c0 * x, steps) / c1


def gaussian_map(
    values: Tensor,
    basis: Tensor | None,
    cov: Tensor | None,
    start: tuple[Tensor, Tensor],
    end: tuple[Tensor, Tensor],
) -> Tensor:
    """S_end^(1/2) S_start^(-1/2) as (n, d, d), S = alpha^2 C + sigma^2 I, for start and end of shape (n,) each.

    `cov` is C where C needs a gradient: then the derivative of the matrix function is added, with the divided
    differences G_ij = (a_e^2 s_s^2 - s_e^2 a_s^2) / (S_i S_j (g_i + g_j)) of g = sqrt(S_end/S_start) in
    closed form, which equal eigenvalues leave finite (torch's eigh derivative does not). Second derivatives
    in C are not carried.
    """
    (a0, s0), (a1, s1) = ((a[:, None], s[:, None]) for a, s in (start, end))
    tiny = torch.finfo(values.dtype).tiny ** 0.5
    below = (a0**2 * values + s0**2).clamp(min=tiny)
    g = torch.sqrt((a1**2 * values + s1**2).clamp(min=tiny**2) / below)
    if basis is None:
        return torch.diag_embed(g)
    out = (basis * g[:, None, :]) @ basis.mT
    if cov is None:
        return out
    rate = ((a1 * s0) ** 2 - (s1 * a0) ** 2)[..., None]
    rate = rate / (below[:, :, None] * below[:, None, :] * (g[:, :, None] + g[:, None, :]))
    return out + basis @ (rate * (basis.mT @ (cov - cov.detach()) @ basis)) @ basis.mT
