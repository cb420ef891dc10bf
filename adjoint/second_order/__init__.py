"""How a sample moves with what enters: products with a run's Jacobian, both ways. Knows no loss and no optimiser."""

from .call_jvp import CallJVP, DoubleBackward, ForwardMode
from .forward_mode import pushforward
from .linearisation import Linearisation, linearised
from .singular import SingularDirections, singular_directions

__all__ = [
    "CallJVP", "DoubleBackward", "ForwardMode", "Linearisation", "SingularDirections", "linearised", "pushforward",
    "singular_directions",
]  # fmt: skip
