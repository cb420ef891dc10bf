"""How a sample moves with what enters: products with a run's Jacobian, both ways. Knows no loss and no optimiser."""

from .call_jvp import CallJVP, DoubleBackward, ForwardMode
from .forward_mode import pushforward
from .linearisation import Linearisation, linearised

__all__ = ["CallJVP", "DoubleBackward", "ForwardMode", "Linearisation", "linearised", "pushforward"]
