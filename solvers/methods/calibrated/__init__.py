"""Which prediction is best extrapolated for one model? DPM-Solver-v3: statistics measured on data, and the method that
samples with them. Knows methods and models, no gradient.
"""

from .calibration import model_statistics
from .dpm_v3 import DPMSolverV3
from .v3_statistics import ModelStatistics

__all__ = [
    "DPMSolverV3", "ModelStatistics", "model_statistics",
]  # fmt: skip
