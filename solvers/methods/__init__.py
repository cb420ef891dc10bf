"""Published samplers, a file a family: formulas that a Builder turns into plans. Rooms of their own have the adaptive
ones, what goes around a method, what is calibrated on a model, and the exactly reversible. Knows no gradient.
"""

from .adams import LMS
from .adaptive import (
    PID,
    Accepted,
    AdaptiveDPM,
    EmbeddedPair,
    GottaGoFast,
    IntegralControl,
    StepControl,
    StochasticImprovedEuler,
    accepted_times,
    adapt,
)
from .around import (
    Ancestral,
    Clamp,
    DynamicThreshold,
    Ends,
    LangevinCorrected,
    Norms,
    OnData,
    OnDataOnly,
    Restart,
)
from .calibrated import DPMSolverV3, ModelStatistics, model_statistics
from .chains import MALA, ULA
from .consistency import LCM, TCD
from .ddim import DDIM, DDPM, PosteriorVariance
from .deis import DEIS
from .dpm import DPMSolver, DPMSolverPP
from .dpm_fast import DPMSolverFast, DPMSolverPPFast
from .dpm_single import KDPM2, DPMSolverPPSingle, DPMSolverSingle
from .edm import EDMHeun
from .edm_pec import EDMPEC
from .er_sde import ERSDE
from .flow import FlowAdams, FlowEuler, FlowHeun, FlowMidpoint
from .flow_sde import ConstantFlowSDE, FlowSDE
from .ghvb import GHVB
from .hybrid_heun import HybridHeun
from .mrs import MRS, Reverse
from .pndm import IPNDM, PLMS, PNDM
from .predictor_corrector import CorrectorMode
from .reversible import BDIA, EDICT, OBELM, Coupled, ReversibleHeun, Rex, Stages
from .rho_rk import RhoRK
from .runge_kutta import DOPRI5, HEUN, KUTTA3, MIDPOINT, RK4, Tableau
from .sa import SASolver
from .sde import EulerMaruyama, SDEDPMSolver, SDEDPMSolverPP
from .seeds import SEEDS
from .stochastic_flow import StochasticFlow
from .tau import Eta, Tau
from .unipc import BVariant, UniPC

__all__ = [
    "Accepted", "AdaptiveDPM", "Ancestral", "BDIA", "BVariant", "Clamp", "ConstantFlowSDE", "CorrectorMode",
    "Coupled", "DDIM", "DDPM", "DEIS", "DOPRI5", "DPMSolver", "DPMSolverFast", "DPMSolverPP",
    "DPMSolverPPFast", "DPMSolverPPSingle", "DPMSolverSingle", "DPMSolverV3", "DynamicThreshold", "EDICT",
    "EDMHeun", "EDMPEC", "ERSDE", "EmbeddedPair", "Ends", "Eta", "EulerMaruyama", "FlowAdams", "FlowEuler",
    "FlowHeun", "FlowMidpoint", "FlowSDE", "GHVB", "GottaGoFast", "HEUN", "HybridHeun", "IPNDM",
    "IntegralControl", "KDPM2", "KUTTA3", "LCM", "LMS", "LangevinCorrected", "MALA", "MIDPOINT", "MRS",
    "ModelStatistics", "Norms", "OBELM", "OnData", "OnDataOnly", "PID", "PLMS", "PNDM", "PosteriorVariance",
    "RK4", "Restart", "Reverse", "ReversibleHeun", "Rex", "RhoRK", "SASolver", "SDEDPMSolver",
    "SDEDPMSolverPP", "SEEDS", "Stages", "StepControl", "StochasticFlow", "StochasticImprovedEuler", "TCD",
    "Tableau", "Tau", "ULA", "UniPC", "accepted_times", "adapt", "model_statistics",
]  # fmt: skip
