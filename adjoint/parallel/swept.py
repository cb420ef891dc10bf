"""Swept: what a pass in parallel took."""

from dataclasses import dataclass
from enum import Enum


class Way(Enum):
    """Which pass it was: from noise to sample, or back with the gradient."""

    FORWARD = "forward"
    BACKWARD = "backward"


@dataclass(frozen=True)
class Swept:
    """What one pass took.

    Attributes:
        way: which pass.
        sweeps: batched calls (or VJPs), one after the other.
        rows: samples in all of them together: the work.
    """

    way: Way
    sweeps: int
    rows: int
