"""From a gradient at the sample to gradients at the inputs. Knows no objectives."""

from .adjoint_deis import AdjointDEIS
from .audit import Audit, Row, audit
from .bridge import as_ode, as_sde
from .cond import PerStep
from .continuous import Continuous
from .diffeq import TorchDiffEq
from .gradient import Auto, Checkpoint, Direct, Gradient, Mechanism, Truncated
from .keep import Keep
from .outside import Backsolve
from .path import States
from .reversible import Reversible
from .sample import sample, trajectory
from .sde import TorchSDE

__all__ = [
    "AdjointDEIS", "Audit", "Auto", "Backsolve", "Checkpoint", "Continuous", "Direct", "Gradient", "Keep", "Mechanism",
    "PerStep", "Reversible", "Row", "States", "TorchDiffEq", "TorchSDE", "Truncated", "as_ode", "as_sde", "audit", "sample",
    "trajectory",
]  # fmt: skip
