"""Learning through a sampler: a plan's numbers from a better plan, and parameters while the sampler runs.

Knows solvers, adjoint, latents; nothing knows it.
"""

from .aligned import ays
from .bespoke_solver import bespoke
from .distilled import d_ode
from .factors import Kept, LearnedCoefficients
from .implicit import implicit_diffusion
from .langevin_chain import LangevinChain
from .multistep_solver import s4s
from .scale import LearnedScale
from .scale_time import LearnedScaleTime
from .shift_queue import ShiftQueue
from .solver import learn_solver
from .times import LearnedTimes
from .told_times import LearnedLabels

__all__ = [
    "LearnedCoefficients",
    "Kept",
    "LearnedLabels",
    "LangevinChain",
    "LearnedScale",
    "LearnedScaleTime",
    "ShiftQueue",
    "LearnedTimes",
    "ays",
    "bespoke",
    "d_ode",
    "implicit_diffusion",
    "learn_solver",
    "s4s",
]
