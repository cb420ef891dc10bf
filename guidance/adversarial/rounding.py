"""Rounding inwards: what is put into a narrower dtype stays where it was allowed to be, to the last bit."""

import torch
from torch import Tensor


def towards_centre(centre: Tensor, change: Tensor) -> Tensor:
    """centre + change in centre's dtype with |point - centre| <= |change| exactly in every coordinate.

    The nearest number may lie beyond: 0.25 + 8/255 is 0.28149 in float16, 0.4 % of 8/255 too far. There the
    neighbour before it is taken.

    Args:
        change: float64.
    """
    wide = centre.double()
    point = (wide + change).to(centre.dtype)
    moved, rest = _difference(point.double(), wide)
    beyond = (moved.abs() > change.abs()) | (moved.abs() == change.abs()) & (moved * rest > 0)
    return torch.where(beyond, _before(point, centre), point)


def inner_range(box: tuple[float, float], dtype: torch.dtype) -> tuple[float, float]:
    """The least and the greatest number of `dtype` in the box."""
    low, high = (torch.tensor(end, dtype=torch.float64).to(dtype) for end in box)
    low = low if float(low) >= box[0] else torch.nextafter(low, torch.full_like(low, torch.inf))
    high = high if float(high) <= box[1] else torch.nextafter(high, torch.full_like(high, -torch.inf))
    return float(low), float(high)


def _before(point: Tensor, centre: Tensor) -> Tensor:
    """The neighbour of each number on the way to the centre."""
    if (
        point.is_cuda and point.dtype == torch.float16
    ):  # for which some versions of torch have no kernel there
        return torch.nextafter(point.cpu(), centre.cpu()).to(point.device)
    return torch.nextafter(point, centre)


def _difference(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """(s, e) with s the rounded a - b and s + e = a - b exactly (Knuth, volume 2, section 4.2.2, theorem B)."""
    s = a - b
    b_in_s = a - s  # how much of b went into s; the rest of a and of b is what rounding left out
    a_in_s = s + b_in_s
    return s, (a - a_in_s) + (b_in_s - b)
