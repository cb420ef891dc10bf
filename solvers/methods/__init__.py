"""Published samplers, a file a family: formulas that a Builder turns into plans. Knows no network and no gradient."""

from .adaptive import accepted_times
from .ancestral import Ancestral
from .consistency import LCM, TCD
from .coupled import Coupled, Rex, Stages
from .ddim import DDIM, DDPM, PosteriorVariance
from .deis import DEIS
from .dpm import DPMSolverPP, DPMSolverPPSingle
from .edm import EDMHeun
from .edm_pec import EDMPEC
from .er_sde import ERSDE
from .flow import FlowAdams, FlowEuler, FlowHeun, FlowMidpoint
from .flow_sde import ConstantFlowSDE, FlowSDE
from .langevin import MALA, ULA, LangevinCorrected, Norms
from .on_data import Clamp, DynamicThreshold, OnData
from .predictor_corrector import CorrectorMode
from .restart import Restart
from .sa import SASolver
from .sde import EulerMaruyama, SDEDPMSolver, SDEDPMSolverPP
from .seeds import SEEDS
from .tau import Eta, Tau
from .two_state import BDIA, EDICT, OBELM, ReversibleHeun
from .unipc import UniPC

__all__ = [
    "Ancestral", "BDIA", "Clamp", "ConstantFlowSDE", "CorrectorMode", "Coupled", "DDIM", "DDPM", "DEIS",
    "DPMSolverPP", "DPMSolverPPSingle", "DynamicThreshold", "EDICT", "EDMHeun", "EDMPEC", "ERSDE", "Eta",
    "EulerMaruyama", "FlowAdams", "FlowEuler", "FlowHeun", "FlowMidpoint", "FlowSDE", "LCM",
    "LangevinCorrected", "MALA", "Norms", "OBELM", "OnData", "PosteriorVariance", "Restart",
    "ReversibleHeun", "Rex", "SASolver", "SDEDPMSolver", "SDEDPMSolverPP", "SEEDS", "Stages", "TCD", "Tau",
    "ULA", "UniPC", "accepted_times",
]  # fmt: skip
