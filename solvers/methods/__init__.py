"""Published samplers, a file a family: formulas that a Builder turns into plans. Knows no network and no gradient."""

from .adams import LMS
from .adaptive import Accepted, accepted_times, adapt
from .adaptive_dpm import AdaptiveDPM
from .ancestral import Ancestral
from .calibration import model_statistics
from .consistency import LCM, TCD
from .coupled import Coupled, Rex, Stages
from .ddim import DDIM, DDPM, PosteriorVariance
from .deis import DEIS
from .dpm import DPMSolver, DPMSolverPP
from .dpm_fast import DPMSolverFast, DPMSolverPPFast
from .dpm_single import KDPM2, DPMSolverPPSingle, DPMSolverSingle
from .dpm_v3 import DPMSolverV3
from .edm import EDMHeun
from .edm_pec import EDMPEC
from .embedded import EmbeddedPair
from .ends import Ends
from .er_sde import ERSDE
from .flow import FlowAdams, FlowEuler, FlowHeun, FlowMidpoint
from .flow_sde import ConstantFlowSDE, FlowSDE
from .ghvb import GHVB
from .hybrid_heun import HybridHeun
from .improved_euler import GottaGoFast, StochasticImprovedEuler
from .langevin import MALA, ULA, LangevinCorrected, Norms
from .mrs import MRS, Reverse
from .on_data import Clamp, DynamicThreshold, OnData, OnDataOnly
from .pndm import IPNDM, PLMS, PNDM
from .predictor_corrector import CorrectorMode
from .restart import Restart
from .rho_rk import RhoRK
from .runge_kutta import DOPRI5, HEUN, KUTTA3, MIDPOINT, RK4, Tableau
from .sa import SASolver
from .sde import EulerMaruyama, SDEDPMSolver, SDEDPMSolverPP
from .seeds import SEEDS
from .step_control import PID, IntegralControl, StepControl
from .stochastic_flow import StochasticFlow
from .tau import Eta, Tau
from .two_state import BDIA, EDICT, OBELM, ReversibleHeun
from .unipc import UniPC
from .v3_statistics import ModelStatistics

__all__ = [
    "Accepted", "AdaptiveDPM", "Ancestral", "BDIA", "Clamp", "ConstantFlowSDE", "CorrectorMode", "Coupled",
    "DDIM", "DDPM", "DEIS", "DOPRI5", "DPMSolver", "DPMSolverFast", "DPMSolverPP", "DPMSolverPPFast",
    "DPMSolverPPSingle", "DPMSolverSingle", "DPMSolverV3", "DynamicThreshold", "EDICT", "EDMHeun", "EDMPEC",
    "ERSDE", "EmbeddedPair", "Ends", "Eta", "EulerMaruyama", "FlowAdams", "FlowEuler", "FlowHeun",
    "FlowMidpoint", "FlowSDE", "GHVB", "GottaGoFast", "HEUN", "HybridHeun", "IPNDM", "IntegralControl",
    "KDPM2", "KUTTA3", "LCM", "LMS", "LangevinCorrected", "MALA", "MIDPOINT", "MRS", "ModelStatistics",
    "Norms", "OBELM", "OnData", "OnDataOnly", "PID", "PLMS", "PNDM", "PosteriorVariance", "RK4", "Restart",
    "Reverse", "ReversibleHeun", "Rex", "RhoRK", "SASolver", "SDEDPMSolver", "SDEDPMSolverPP", "SEEDS",
    "Stages", "StepControl", "StochasticFlow", "StochasticImprovedEuler", "TCD", "Tableau", "Tau", "ULA",
    "UniPC", "accepted_times", "adapt", "model_statistics",
]  # fmt: skip
