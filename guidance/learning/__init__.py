"""Learning through a sampler: a plan's numbers from a better plan.

Knows solvers, adjoint, latents; nothing knows it.
"""

from .aligned import ays
from .distilled import d_ode
from .factors import Coefficients, Kept
from .scale import Scale
from .solver import learn_solver
from .times import Times
from .told_times import Labels

__all__ = ["Coefficients", "Kept", "Labels", "Scale", "Times", "ays", "d_ode", "learn_solver"]
