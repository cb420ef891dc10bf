"""Learning through a sampler: a plan's numbers from a better plan, and parameters while the sampler runs.

Knows solvers, adjoint, latents; nothing knows it.
"""

from .aligned import ays
from .distilled import d_ode
from .factors import Coefficients, Kept
from .implicit import implicit_diffusion
from .langevin_chain import LangevinChain
from .scale import Scale
from .shift_queue import ShiftQueue
from .solver import learn_solver
from .times import Times
from .told_times import Labels

__all__ = [
    "Coefficients",
    "Kept",
    "Labels",
    "LangevinChain",
    "Scale",
    "ShiftQueue",
    "Times",
    "ays",
    "d_ode",
    "implicit_diffusion",
    "learn_solver",
]
