"""Attacks through a sampler, the defence by one, and what both are worth: robust accuracy, certified radii, protections
of images, detection. Knows guides; trains nothing.
"""

from .adversarial_guidance import Adversarial, advdiff
from .aims import DLR, Aim, CrossEntropy, TargetedCrossEntropy, TargetedDLR
from .attack import Attack, pgd
from .auto_step import AutoStep
from .balls import L2, Ball, Linf
from .defences import Defence, DefenceCost, Purified, SurrogatePurified, Undefended
from .evasion import Evasion
from .expectation import Expectation
from .intervals import Proportion
from .protections import (
    AdvDM,
    DiffusionGuard,
    Mist,
    PhotoGuardDiffusion,
    PhotoGuardEncoder,
    Protection,
    ScoreDistillation,
)
from .purification import purify, straight_through
from .regeneration import regeneration_distance
from .robustness import RobustAccuracy, robust_accuracy
from .smoothing import Certificate, certify, one_step_denoise
from .stepping import FixedStep, Stepping

__all__ = [
    "AdvDM", "Adversarial", "Aim", "Attack", "AutoStep", "Ball", "Certificate", "CrossEntropy", "DLR", "Defence",
    "DefenceCost", "DiffusionGuard", "Evasion", "Expectation", "FixedStep", "L2", "Linf", "Mist", "PhotoGuardDiffusion",
    "PhotoGuardEncoder", "Proportion", "Protection", "Purified", "RobustAccuracy", "ScoreDistillation", "Stepping",
    "SurrogatePurified", "TargetedCrossEntropy", "TargetedDLR", "Undefended", "advdiff", "certify", "one_step_denoise",
    "pgd", "purify", "regeneration_distance", "robust_accuracy", "straight_through",
]  # fmt: skip
