"""What the gradient is for: optimising what enters a sampler, and steering it while it samples."""

from .classifier import ClassifierGuidance, DataGuidance
from .context import Context, Counter, Setting, Through
from .daps import DAPS
from .ddnm import DDNM
from .diffpir import DiffPIR
from .dps import DPS
from .flowchef import FlowChef
from .freedom import FreeDoM
from .greedy import Greedy
from .guide import Guide, Hook, Together, Window
from .lgd import LGD
from .lookahead import Lookahead
from .mcg import MCG
from .measurement import Measurement
from .mpgd import MPGD
from .nonlinear import Clipping, NonLinear, PhaseRetrieval
from .operators import Blur, Downsample, GaussianNoise, Linear, Mask, Matrix, Operator
from .optimise import Over, Result, Stop, adam, optimise
from .pigdm import PiGDM
from .policies import SNR, Bayes, Policy, Raw, Residual, ScoreRatio, Unit
from .priors import ChiPrior, NormPrior, Prior
from .reddiff import REDdiff
from .steer import Steered, steer
from .tfg import TFG
from .tmpd import TMPD
from .travel import Travel
from .universal import Universal
from .validity import obstacle

__all__ = [
    "DAPS", "DDNM", "DPS", "LGD", "MCG", "MPGD", "SNR", "TFG", "TMPD", "Bayes", "Blur", "ChiPrior", "ClassifierGuidance",
    "Clipping", "Context", "Counter", "DataGuidance", "DiffPIR", "Downsample", "FlowChef", "FreeDoM", "GaussianNoise", "Greedy",
    "Guide", "Hook", "Linear", "Lookahead", "Mask", "Matrix", "Measurement", "NonLinear", "NormPrior", "Operator", "Over",
    "PhaseRetrieval", "PiGDM", "Policy", "Prior", "REDdiff", "Raw", "Residual", "Result", "ScoreRatio", "Setting", "Steered",
    "Stop", "Through", "Together", "Travel", "Unit", "Universal", "Window", "adam", "obstacle", "optimise", "steer",
]  # fmt: skip
