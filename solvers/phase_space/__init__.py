"""Diffusion of position and momentum: its process, what a network says of it, and its samplers. Knows processes, plans
and methods, no gradient.
"""

from .conjugate import ConjugateDDIM
from .method import PhaseMethod
from .noise import CholeskyNoise
from .process import PhaseSpaceLangevin
from .splitting import SSCS, PhaseEulerMaruyama, ReducedVerlet

__all__ = [
    "CholeskyNoise", "ConjugateDDIM", "PhaseEulerMaruyama", "PhaseMethod", "PhaseSpaceLangevin", "ReducedVerlet",
    "SSCS",
]  # fmt: skip
