"""What the gradient is for: optimising what enters a sampler."""

from . import edit
from .optimise import Over, Result, Stop, adam, optimise
from .priors import ChiPrior, NormPrior, Prior

__all__ = ["ChiPrior", "NormPrior", "Over", "Prior", "Result", "Stop", "adam", "edit", "optimise"]
