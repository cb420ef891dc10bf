"""A run solved as one equation: all network calls of a window at once, swept until they agree. Knows no objectives."""

from .parallel import Parallel
from .swept import Swept, Way

__all__ = [
    "Parallel", "Swept", "Way",
]  # fmt: skip
