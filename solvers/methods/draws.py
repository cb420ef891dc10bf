"""A draw in a register of its own, for an Apply that takes more of it than a multiple."""

from ..compiler import Builder
from ..instructions import Combine


def draw(b: Builder, out: str) -> str:
    """out <- a fresh slot; the term 0 x gives it the state's shape. Returns `out`."""
    b.ops.append(Combine(out, ((0.0, "x"),), ((1.0, b.slots),)))
    b.slots += 1
    return out
