"""The curve that statistics of a model are taken for between the lambdas at which they were measured."""

import numpy as np


class NaturalSpline:
    """The natural cubic spline through values (K, ...) at K knots, constant beyond them; its slope and integral."""

    def __init__(self, knots: np.ndarray, values: np.ndarray) -> None:
        gaps, ahead = np.diff(knots), np.diff(values, axis=0)
        self.knots = knots
        if len(knots) == 1:
            self.cubic = values[:, None]
            self.sums = np.zeros_like(values)
            return
        gap = gaps.reshape(-1, *(1,) * (values.ndim - 1))
        bends = np.zeros_like(values)  # second derivatives, none at the ends
        if len(knots) > 2:
            system = (
                np.diag(gaps[:-1] + gaps[1:]) / 3 + (np.diag(gaps[1:-1], 1) + np.diag(gaps[1:-1], -1)) / 6
            )
            jumps = np.diff(ahead / gap, axis=0)
            bends[1:-1] = np.linalg.solve(system, jumps.reshape(len(jumps), -1)).reshape(jumps.shape)
        slopes = ahead / gap - gap * (2 * bends[:-1] + bends[1:]) / 6
        # the polynomial of each piece, from its own knot
        self.cubic = np.stack([values[:-1], slopes, bends[:-1] / 2, np.diff(bends, axis=0) / gap / 6], axis=1)
        sums = sum(self.cubic[:, k] * gap ** (k + 1) / (k + 1) for k in range(4))
        self.sums = np.concatenate([np.zeros_like(values[:1]), np.cumsum(sums, axis=0)])

    def at(self, u: np.ndarray) -> np.ndarray:
        """(Q, ...) at u (Q,)."""
        piece, d = self._place(np.clip(u, self.knots[0], self.knots[-1]))
        return sum(self.cubic[piece, k] * d**k for k in range(self.cubic.shape[1]))  # type: ignore[return-value]

    def slope(self) -> np.ndarray:
        """The derivative at the knots, (K, ...)."""
        if self.cubic.shape[1] == 1:
            return np.zeros_like(self.sums)
        gap = self.knots[-1] - self.knots[-2]
        last = sum(k * self.cubic[-1, k] * gap ** (k - 1) for k in (1, 2, 3))
        return np.concatenate([self.cubic[:, 1], [last]])

    def primitive(self, u: np.ndarray) -> np.ndarray:
        """INT from the first knot to each u."""
        held = np.clip(u, self.knots[0], self.knots[-1])
        piece, d = self._place(held)
        inside = sum(self.cubic[piece, k] * d ** (k + 1) / (k + 1) for k in range(self.cubic.shape[1]))
        return self.sums[piece] + inside + (u - held).reshape(d.shape) * self.at(u)

    def _place(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The piece of each u, and how far into it."""
        piece = np.clip(np.searchsorted(self.knots, u, side="right") - 1, 0, len(self.cubic) - 1)
        return piece, (u - self.knots[piece]).reshape(-1, *(1,) * (self.cubic.ndim - 2))
