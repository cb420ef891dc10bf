"""From a gradient at the sample to gradients at the inputs. Knows no objectives."""

from .adjoint_deis import AdjointDEIS
from .audit import Audit, Row, audit
from .cond import PerStep
from .continuous import Continuous
from .gradient import Auto, Checkpoint, Direct, Gradient, Mechanism, Truncated
from .keep import Keep
from .path import States
from .reversible import Reversible
from .sample import sample, trajectory

__all__ = [
    "AdjointDEIS", "Audit", "Auto", "Checkpoint", "Continuous", "Direct", "Gradient", "Keep", "Mechanism", "PerStep",
    "Reversible", "Row", "States", "Truncated", "audit", "sample", "trajectory",
]  # fmt: skip
