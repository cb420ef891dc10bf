"""How long may the next step be? Pairs of methods that estimate their own error, controls that answer it, and the
search that freezes every sample's accepted steps into one plan. Knows methods, models and plans, no gradient.
"""

from .accepted import Accepted, accepted_times, adapt
from .adaptive_dpm import AdaptiveDPM
from .embedded import EmbeddedPair
from .improved_euler import GottaGoFast, StochasticImprovedEuler
from .step_control import PID, IntegralControl, StepControl

__all__ = [
    "Accepted", "AdaptiveDPM", "EmbeddedPair", "GottaGoFast", "IntegralControl", "PID", "StepControl",
    "StochasticImprovedEuler", "accepted_times", "adapt",
]  # fmt: skip
