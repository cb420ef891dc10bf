"""ModelStatistics: what DPM-Solver-v3 knows of a model, and the exponential integrals that follow from it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.polynomial import legendre as _legendre
from torch import Tensor

from ...process import as_table
from ..weights import lagrange
from .natural_spline import NaturalSpline

_POINTS, _WEIGHTS = _legendre.leggauss(10)
_FITS = np.linalg.inv(_legendre.legvander(_POINTS, 9)).T  # the polynomials that are 1 at one point
# INT_{-1}^{point} of the polynomial through values at the points
_UP_TO = np.stack([_legendre.legval(_POINTS, _legendre.legint(fit, lbnd=-1)) for fit in _FITS], axis=1)
_PANEL = 0.5  # in lambda: with ten points e^{2u} is integrated over it to the last digit

Elements = np.ndarray | np.floating  # one number, or one for every element of a sample


class ModelStatistics:
    """l, s and b of DPM-Solver-v3 over lambda: numbers, or one for every element of a sample. Frozen.

    With y = x/alpha and F = (1 - l) y - D the probability flow is dy/dlambda = -l y - F, and F' is about s F + b.
    Between the lambdas each is a natural cubic spline, beyond them constant: corners in l would be corners of F, and
    hold every order at 2. (1, 0, 0) is the data prediction, (0, -1, 0) the noise prediction.

    Args:
        lam: (K,) rising lambdas, K >= 1.
        l, s, b: (K,), or (K, ...) with factors that broadcast against a sample (...).

    Raises:
        ValueError: lambdas that do not rise, shapes that do not fit, or numbers that are not finite.
    Source: Zheng et al. 2023, arXiv 2310.13268, eq. 5 to 8; `model_statistics` measures them.
    """

    def __init__(
        self,
        lam: Tensor | Sequence[float],
        l: Tensor | Sequence[Any],  # noqa: E741  (the paper's name)
        s: Tensor | Sequence[Any],
        b: Tensor | Sequence[Any],
    ) -> None:
        given = [
            as_table(f"ModelStatistics: {n}", v, "numbers")
            for n, v in zip(("lam", "l", "s", "b"), (lam, l, s, b), strict=True)
        ]
        knots, *values = (each.numpy().copy() for each in given)
        if knots.ndim != 1 or not len(knots) or any(v.shape[:1] != knots.shape for v in values):
            raise ValueError(
                f"ModelStatistics: got shapes {[tuple(v.shape) for v in (knots, *values)]}, expected (K,) lambdas and "
                "(K, ...) of l, s and b; stack them along the first axis"
            )
        if not (np.diff(knots) > 0).all() or not all(np.isfinite(v).all() for v in (knots, *values)):
            raise ValueError(
                "ModelStatistics: got lambdas that do not rise, or NaN or infinity, expected rising finite lambdas and "
                "finite l, s and b; sort them, and measure where alpha and sigma are positive"
            )
        self.lam = knots
        self.l, self.s, self.b = (np.ascontiguousarray(v) for v in np.broadcast_arrays(*values))
        self._l, self._s, self._b = (NaturalSpline(knots, v) for v in (self.l, self.s, self.b))

    def _key(self) -> tuple[Any, ...]:
        return tuple((v.shape, v.tobytes()) for v in (self.lam, self.l, self.s, self.b))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModelStatistics) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __reduce__(self) -> tuple[Any, ...]:
        return ModelStatistics, tuple(torch.tensor(v) for v in (self.lam, self.l, self.s, self.b))

    def __repr__(self) -> str:
        span = f"lambda {self.lam[0]:.4g} .. {self.lam[-1]:.4g}"
        return f"ModelStatistics({len(self.lam)} knots, {span}, {self.l.shape[1:]})"

    @property
    def drifts(self) -> bool:
        """Whether b is anything but zero."""
        return bool((self.b != 0).any())

    def level(self, lam: float) -> Elements:
        """l there."""
        return self._l.at(np.array([lam]))[0]

    def step(
        self, low: float, high: float, nodes: Sequence[float]
    ) -> tuple[Elements, list[Elements], Elements]:
        """y(high) = keep y(low) - sum_j weights_j F(node_j) + rest, all in lambda.

        With L, S the integrals of l and s from `low`, g = e^{-S} F - INT e^{-S} b changes least of all, which is what
        s and b are for. y_t = e^{-L_t} (y_s - INT e^{L + S} (g + INT e^{-S} b)), with g interpolated through the nodes.
        """
        u, w = self._points(low, high)
        wide = (-1, *(1,) * (self.l.ndim - 1))
        growth = np.exp(_since(self._l, low, u) + _since(self._s, low, u)) * w.reshape(wide)
        keep = np.exp(-_since(self._l, low, np.array([high]))[0])
        scaled = [(node - low) / (high - low) for node in nodes]
        basis = [lagrange((u - low) / (high - low), scaled, j).reshape(wide) for j in range(len(nodes))]
        shares = [keep * (growth * each).sum(0) for each in basis]
        rest = np.zeros_like(keep)
        if self.drifts:
            past = sum(share * self._drift(low, node)[-1] for share, node in zip(shares, nodes, strict=True))
            rest = past - keep * (growth * self._drift(low, high)[:-1]).sum(0)
        back = np.exp(-_since(self._s, low, np.array(nodes)))
        return keep, [share * c for share, c in zip(shares, back, strict=True)], rest

    def _drift(self, low: float, high: float) -> np.ndarray:
        """INT_low^u e^{-S} b at the points u of every panel, and last at `high`."""
        u, w = self._points(low, high)
        wide = (-1, *(1,) * (self.l.ndim - 1))
        inner = np.exp(-_since(self._s, low, u)) * self._b.at(u) * w.reshape(wide)
        inner = inner.reshape(-1, len(_POINTS), *self.l.shape[1:])  # panels, their points
        before = np.concatenate([np.zeros_like(inner[:1, 0]), inner.sum(1).cumsum(0)])
        inside = before[:-1, None] + np.einsum("rq,pq...->pr...", _UP_TO / _WEIGHTS, inner)
        return np.concatenate([inside.reshape(-1, *self.l.shape[1:]), before[-1:]])

    def _points(self, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
        """Points of all panels and their weights, whose sum is high - low."""
        edges = self._edges(low, high)
        half, middle = np.diff(edges) / 2, (edges[1:] + edges[:-1]) / 2
        return (middle[:, None] + half[:, None] * _POINTS).ravel(), (half[:, None] * _WEIGHTS).ravel()

    def _edges(self, low: float, high: float) -> np.ndarray:
        """Panels from `low` to `high`, none across a knot, where the splines' pieces meet."""
        a, z = sorted((low, high))
        corners = np.array([a, *self.lam[(self.lam > a) & (self.lam < z)], z])
        parts = [
            np.linspace(p, q, max(1, int(np.ceil((q - p) / _PANEL))) + 1)[:-1]
            for p, q in zip(corners[:-1], corners[1:], strict=True)
        ]
        edges = np.concatenate([*parts, [z]])
        return edges if low <= high else edges[::-1]


def _since(spline: NaturalSpline, low: float, u: np.ndarray) -> np.ndarray:
    """INT_low^u."""
    at = spline.primitive(np.concatenate([[low], u]))
    return at[1:] - at[:1]
