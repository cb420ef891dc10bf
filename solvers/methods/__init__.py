"""Published samplers, a file a family: formulas that a Builder turns into plans. Knows no network and no gradient."""

from .adaptive import accepted_times
from .coupled import Coupled, Rex, Stages
from .ddim import DDIM, DDPM
from .deis import DEIS
from .dpm import DPMSolverPP, DPMSolverPPSingle
from .edm import EDMHeun
from .edm_pec import EDMPEC
from .ends import Ends
from .er_sde import ERSDE
from .flow import FlowAdams, FlowEuler, FlowHeun, FlowMidpoint
from .flow_sde import ConstantFlowSDE, FlowSDE
from .on_data import Clamp, DynamicThreshold, OnData, OnDataOnly
from .predictor_corrector import CorrectorMode
from .restart import Restart
from .sa import SASolver, Tau
from .sde import EulerMaruyama, SDEDPMSolver, SDEDPMSolverPP
from .two_state import BDIA, EDICT, OBELM, ReversibleHeun
from .unipc import UniPC

__all__ = [
    "BDIA", "Clamp", "ConstantFlowSDE", "CorrectorMode", "Coupled", "DDIM", "DDPM", "DEIS", "DPMSolverPP",
    "DPMSolverPPSingle", "DynamicThreshold", "EDICT", "EDMHeun", "EDMPEC", "ERSDE", "Ends", "EulerMaruyama",
    "FlowAdams", "FlowEuler", "FlowHeun", "FlowMidpoint", "FlowSDE", "OBELM", "OnData", "OnDataOnly",
    "Restart", "ReversibleHeun", "Rex", "SASolver", "SDEDPMSolver", "SDEDPMSolverPP", "Stages", "Tau",
    "UniPC", "accepted_times",
]  # fmt: skip
