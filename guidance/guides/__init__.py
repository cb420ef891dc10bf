"""Steering one sampler run step by step. Knows measurements; knows nothing of particles or training."""

from .bookkeeping import Through
from .classifier import ClassifierGuidance, DataGuidance
from .context import Context
from .daps import DAPS
from .ddnm import DDNM
from .diffpir import DiffPIR
from .dps import DPS
from .flowchef import FlowChef
from .freedom import FreeDoM
from .greedy import Greedy
from .guide import Guide, Twist, Window
from .lgd import LGD
from .lookahead import Lookahead
from .mcg import MCG
from .mpgd import MPGD
from .pigdm import PiGDM
from .reddiff import REDdiff
from .steering import Steered, steer
from .step_size import (
    SNR,
    Bayes,
    Capped,
    Damped,
    PiGDMWeight,
    Raw,
    Residual,
    ScoreRatio,
    Shell,
    StepSize,
    Tweedie,
    Unit,
)
from .tfg import TFG
from .tmpd import TMPD
from .travel import Travel
from .universal import Universal

__all__ = [
    "Bayes", "Capped", "ClassifierGuidance", "Context", "DAPS", "DDNM", "DPS", "Damped", "DataGuidance",
    "DiffPIR", "FlowChef", "FreeDoM", "Greedy", "Guide", "LGD", "Lookahead", "MCG", "MPGD", "PiGDM",
    "PiGDMWeight", "REDdiff", "Raw", "Residual", "SNR", "ScoreRatio", "Shell", "Steered", "StepSize", "TFG",
    "TMPD", "Through", "Travel", "Tweedie", "Twist", "Unit", "Universal", "Window", "steer",
]  # fmt: skip
