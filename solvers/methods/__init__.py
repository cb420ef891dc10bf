"""Published samplers, a file a family: formulas that a Builder turns into plans. Knows no network and no gradient."""

from .adaptive import Accepted, accepted_times, adapt
from .adaptive_dpm import AdaptiveDPM
from .coupled import Coupled, Rex, Stages
from .ddim import DDIM, DDPM
from .deis import DEIS
from .dpm import DPMSolverPP, DPMSolverPPSingle
from .edm import EDMHeun
from .edm_pec import EDMPEC
from .embedded import EmbeddedPair
from .ends import Ends
from .er_sde import ERSDE
from .flow import FlowAdams, FlowEuler, FlowHeun, FlowMidpoint
from .flow_sde import ConstantFlowSDE, FlowSDE
from .hybrid_heun import HybridHeun
from .improved_euler import GottaGoFast, StochasticImprovedEuler
from .mrs import MRS, Reverse
from .on_data import Clamp, DynamicThreshold, OnData, OnDataOnly
from .predictor_corrector import CorrectorMode
from .restart import Restart
from .sa import SASolver, Tau
from .sde import EulerMaruyama, SDEDPMSolver, SDEDPMSolverPP
from .step_control import PID, IntegralControl, StepControl
from .stochastic_flow import StochasticFlow
from .two_state import BDIA, EDICT, OBELM, ReversibleHeun
from .unipc import UniPC

__all__ = [
    "Accepted", "AdaptiveDPM", "BDIA", "Clamp", "ConstantFlowSDE", "CorrectorMode", "Coupled", "DDIM",
    "DDPM", "DEIS", "DPMSolverPP", "DPMSolverPPSingle", "DynamicThreshold", "EDICT", "EDMHeun", "EDMPEC",
    "ERSDE", "EmbeddedPair", "Ends", "EulerMaruyama", "FlowAdams", "FlowEuler", "FlowHeun", "FlowMidpoint",
    "FlowSDE", "GottaGoFast", "HybridHeun", "IntegralControl", "MRS", "OBELM", "OnData", "OnDataOnly",
    "PID", "Restart", "Reverse", "ReversibleHeun", "Rex", "SASolver", "SDEDPMSolver", "SDEDPMSolverPP",
    "Stages", "StepControl", "StochasticFlow", "StochasticImprovedEuler", "Tau", "UniPC", "accepted_times",
    "adapt",
]  # fmt: skip
