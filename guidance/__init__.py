"""What the gradient is for: optimising what enters a sampler."""

from .context import Context, Through
from .guide import Guide, Hook, Together, Window
from .optimise import Over, Result, Stop, adam, optimise
from .policies import SNR, Policy, Raw, Residual, ScoreRatio, Unit
from .priors import ChiPrior, NormPrior, Prior
from .steer import Steered, steer
from .validity import obstacle

__all__ = [
    "SNR", "ChiPrior", "Context", "Guide", "Hook", "NormPrior", "Over", "Policy", "Prior", "Raw", "Residual", "Result",
    "ScoreRatio", "Steered", "Stop", "Through", "Together", "Unit", "Window", "adam", "obstacle", "optimise", "steer",
]  # fmt: skip
