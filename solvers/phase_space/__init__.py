"""Diffusion of position and momentum: its process, what a network says of it, and its samplers. Knows processes, plans
and methods, no gradient.
"""

from .conjugate import ConjugateDDIM
from .method import PhaseMethod
from .noise import CholeskyNoise
from .parts import ConjugateParts, EulerParts, Parts
from .process import PhaseSpaceLangevin
from .reduced import ReducedOBA, ReducedVerlet
from .splitting import SSCS, PhaseEulerMaruyama

__all__ = [
    "CholeskyNoise", "ConjugateDDIM", "ConjugateParts", "EulerParts", "Parts", "PhaseEulerMaruyama", "PhaseMethod",
    "PhaseSpaceLangevin", "ReducedOBA", "ReducedVerlet", "SSCS",
]  # fmt: skip
