"""What an attack is handed: points and the balls and range that they stay in, checked, as a threat model."""

from typing import Any

import torch
from torch import Tensor

from ...solvers.kinds import check_kind, described
from ...solvers.opening import check_state
from .balls import Ball
from .rounding import inner_range
from .threat_model import Points, ThreatModel


def attacked(starts: Any, balls: Any, box: tuple[float, float] | None) -> ThreatModel:
    """The threat model around `starts`, one tensor (B, ...) or several, with a ball for each.

    Raises:
        TypeError: anything else. ValueError: other counts or batch sizes, radii below 0, starts outside `box`.
    """
    given = (starts,) if isinstance(starts, Tensor) else starts
    if not isinstance(given, tuple | list) or not all(isinstance(c, Tensor) for c in given):
        raise TypeError(
            f"starts: got {described(starts)}, expected a tensor (B, ...) or a tuple of them; write "
            "pgd(loss, x, ...) or pgd(loss, (x, cond), ...)"
        )
    for start in given:
        check_state(start, name="starts")
    bounds = tuple(balls) if isinstance(balls, tuple | list) else (balls,)
    for ball in bounds:
        check_kind("balls", ball, Ball, "a ball for each start, or one; write Linf(0.1) or L2(1.0)")
    centres = tuple(c.detach() for c in given)
    batches = [len(c) for c in centres]
    if len(bounds) != len(centres) or len(set(batches)) != 1:
        raise ValueError(
            f"pgd: got {len(centres)} starts of batches {batches} and {len(bounds)} balls, "
            "expected one ball (and jitter) for each start and one batch size"
        )
    if any(not ball.radius >= 0 for ball in bounds):
        raise ValueError(f"pgd: got {bounds}, expected radii >= 0")
    if box is not None:
        _check_box(centres, box)
        centres = tuple(c.clamp(*inner_range(box, c.dtype)) for c in centres)  # over by round-off, if at all
    return ThreatModel(centres, bounds, box)


def _check_box(centres: Points, box: tuple[float, float]) -> None:
    if not box[0] < box[1]:
        raise ValueError(f"box: got {box}, expected (low, high) with low < high")
    past = [float(torch.maximum(box[0] - c, c - box[1]).max()) for c in centres]
    # a resize or a change of dtype ends a few units in the last place of float32 outside: no leaving of the range
    if max(past) > 8 * torch.finfo(torch.float32).eps * max(abs(box[0]), abs(box[1])):
        k = past.index(max(past))
        raise ValueError(
            f"box: got start {k} outside {box} by up to {past[k]:.3g}, expected all starts within: what is "
            "clamped to the box from there leaves the ball; clamp the start, or give its own range as box"
        )
