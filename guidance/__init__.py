"""What the gradient is for: optimising what enters a sampler."""

from .black_box import BlackBox
from .concentration import Concentration
from .context import Context, Through
from .d_flow import blended_start, d_flow
from .dno import dno
from .doodl import doodl
from .flow_control import flow_grad, oc_flow
from .guide import Guide, Hook, Together, Window
from .lbfgs import SampleLBFGS, lbfgs
from .optimise import Over, Result, Stop, adam, optimise
from .policies import SNR, Policy, Raw, Residual, ScoreRatio, Unit
from .priors import ChiPrior, NormPrior, Prior, Priors
from .reno import reno
from .skip_straight import SkipStraight
from .steer import Steered, steer
from .validity import obstacle

__all__ = [
    "SNR", "BlackBox", "ChiPrior", "Concentration", "Context", "Guide", "Hook", "NormPrior", "Over", "Policy", "Prior",
    "Priors", "Raw", "Residual", "Result", "SampleLBFGS", "ScoreRatio", "SkipStraight", "Steered", "Stop", "Through",
    "Together", "Unit", "Window", "adam", "blended_start", "d_flow", "dno", "doodl", "flow_grad", "lbfgs", "obstacle",
    "oc_flow", "optimise", "reno", "steer",
]  # fmt: skip
