"""The threat model of an attack: where it may move its points, and how it moves them there."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...solvers.broadcast import per_sample
from .balls import Ball
from .rounding import inner_range

Points = tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class ThreatModel:
    """centre + change with every change in its ball and every point in the box.

    Changes are carried in float64 whatever the dtype of the centres: a step of a tenth of 8/255 is lost in bfloat16.
    """

    centres: Points
    balls: tuple[Ball, ...]
    box: tuple[float, float] | None

    def none(self) -> Points:
        """No change."""
        return tuple(torch.zeros_like(c, dtype=torch.float64) for c in self.centres)

    def project(self, changes: Points) -> Points:
        """The nearest changes allowed: in the balls, then in the box, which for L2 can only shorten them."""
        inside = (ball.project(d) for ball, d in zip(self.balls, changes, strict=True))
        if self.box is None:
            return tuple(inside)
        low, high = self.box
        wide = (c.double() for c in self.centres)
        return tuple(d.clamp(low - c, high - c) for d, c in zip(inside, wide, strict=True))

    def points(self, changes: Points) -> Points:
        """The points, in the centres' dtypes: exactly in the balls, and in the box."""
        places = zip(self.balls, self.centres, changes, strict=True)
        points = tuple(ball.place(c, d) for ball, c, d in places)
        if self.box is None:
            return points
        return tuple(point.clamp(*inner_range(self.box, point.dtype)) for point in points)

    def stepped(self, changes: Points, slopes: Points, share: float | Tensor) -> Points:
        """Down the slopes by a share of each radius, one for all samples or (B,), and projected."""
        return self.project(
            tuple(
                d - _over(share, d) * ball.radius * ball.direction(slope.double())
                for d, ball, slope in zip(changes, self.balls, slopes, strict=True)
            )
        )


def _over(share: float | Tensor, like: Tensor) -> float | Tensor:
    return per_sample(share, like) if isinstance(share, Tensor) else share
