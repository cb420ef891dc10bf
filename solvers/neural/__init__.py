"""Differential equations of one's own: a network's drift and diffusion in place of a denoiser's, as plans. Knows plans
and methods, no gradient.
"""

from .clock import Clock
from .diffusion import DriftDiffusion, DriftMethod
from .ito import ItoEuler
from .stratonovich import StratonovichHeun, StratonovichMidpoint, StratonovichReversibleHeun

__all__ = [
    "Clock", "DriftDiffusion", "DriftMethod", "ItoEuler", "StratonovichHeun", "StratonovichMidpoint",
    "StratonovichReversibleHeun",
]  # fmt: skip
