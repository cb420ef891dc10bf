"""From a gradient at the sample to gradients at the inputs. Knows no objectives."""

from .adjoint_deis import AdjointDEIS
from .bridge import as_ode, as_sde
from .cond import PerStep
from .continuous import Continuous
from .diffeq import TorchDiffEq
from .gradient import Auto, Checkpoint, Direct, Gradient, Mechanism, Truncated
from .outside import Backsolve
from .path import States
from .reversible import Reversible
from .sample import sample
from .sde import TorchSDE

__all__ = [
    "AdjointDEIS", "Auto", "Backsolve", "Checkpoint", "Continuous", "Direct", "Gradient", "Mechanism", "PerStep", "Reversible",
    "States", "TorchDiffEq", "TorchSDE", "Truncated", "as_ode", "as_sde", "sample",
]  # fmt: skip
