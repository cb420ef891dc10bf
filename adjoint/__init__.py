"""From a gradient at the sample to gradients at the inputs. Knows no objectives."""

from .cond import PerStep
from .gradient import Auto, Checkpoint, Direct, Gradient, Mechanism, Truncated
from .reversible import Reversible
from .sample import sample

__all__ = ["Auto", "Checkpoint", "Direct", "Gradient", "Mechanism", "PerStep", "Reversible", "Truncated", "sample"]
