"""Inversion and editing: `from pullback.guidance import edit`, one call for each method. `docs/editing.md` compares them."""

from .aidi import aidi, anderson
from .code_edit import code
from .controlled import Controlled
from .edited import Edit
from .exact_inversion import exact_inversion
from .flow_edit import flow_edit
from .learn_schedule import Learned, learn_schedule
from .ode_inversion import FireFlow, ddim_inversion, fireflow, ode_inversion, rf_solver
from .rf_inversion import rf_inversion, rf_invert, rf_regenerate
from .sde_drag import sde_drag
from .stochastic_edit import cycle_diffusion, edit_friendly, sdedit
from .window import Trend, Window

__all__ = [
    "Controlled", "Edit", "FireFlow", "Learned", "Trend", "Window", "aidi", "anderson", "code", "cycle_diffusion", "ddim_inversion",
    "edit_friendly", "exact_inversion", "fireflow", "flow_edit", "learn_schedule", "ode_inversion", "rf_inversion", "rf_invert",
    "rf_regenerate", "rf_solver", "sde_drag", "sdedit",
]  # fmt: skip
