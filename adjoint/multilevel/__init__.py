"""How do coarse runs give the gradient of a fine sampler? Knows grids and runs of them, no objectives."""

from .allocation import Allocation, CoupledSum, SingleTerm
from .draws import IndependentDraws, LevelDraws, StratifiedDraws
from .levels import GridLevels
from .measuring import measured_levels
from .pilot import Pilot
from .weighted import Weighted
from .weighted_sampling import sample_multilevel

__all__ = [
    "Allocation", "CoupledSum", "GridLevels", "IndependentDraws", "LevelDraws", "Pilot", "SingleTerm",
    "StratifiedDraws", "Weighted", "measured_levels", "sample_multilevel",
]  # fmt: skip
