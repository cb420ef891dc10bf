"""Inversion and editing of given images, one call a method: `docs/editing.md` compares them. Knows no guide,
no reward.
"""

from .base import Edit
from .code_edit import code
from .controlled import Controlled
from .drag import sde_drag
from .exact import exact_inversion
from .fixed_point import aidi
from .flowedit import flow_edit
from .inversions import FireFlow, ddim_inversion, fireflow, ode_inversion, rf_solver
from .learned import Learned, learn_schedule
from .rectified_inversion import rf_inversion, rf_invert, rf_regenerate
from .schedule import Schedule, Trend
from .stochastic import cycle_diffusion, edit_friendly, sdedit

__all__ = [
    "Controlled", "Edit", "FireFlow", "Learned", "Schedule", "Trend", "aidi", "code", "cycle_diffusion",
    "ddim_inversion", "edit_friendly", "exact_inversion", "fireflow", "flow_edit", "learn_schedule",
    "ode_inversion", "rf_inversion", "rf_invert", "rf_regenerate", "rf_solver", "sde_drag", "sdedit",
]  # fmt: skip
