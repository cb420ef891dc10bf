"""How is a run made so that autograd can call its result back? A class each. Knows replays, no choosing."""

from .checkpoint import Checkpoint, Mechanism
from .direct import Direct
from .gradient import Gradient
from .input import Input
from .jacobian_free import JacobianFree
from .reversible import Reversible
from .skip_straight import SkipStraight
from .truncated import Truncated

__all__ = [
    "Checkpoint", "Direct", "Gradient", "Input", "JacobianFree", "Mechanism", "Reversible", "SkipStraight", "Truncated",
]  # fmt: skip
