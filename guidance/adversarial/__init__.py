"""Attacks through a sampler (PGD, AdvDiff) and the defence by one (purification). Knows guides; trains nothing."""

from .adversarial_guidance import Adversarial, advdiff
from .attack import Attack, pgd
from .auto_step import AutoStep
from .balls import L2, Ball, Linf
from .expectation import Expectation
from .purification import purify, straight_through
from .stepping import FixedStep, Stepping

__all__ = [
    "Adversarial", "Attack", "AutoStep", "Ball", "Expectation", "FixedStep", "L2", "Linf", "Stepping", "advdiff", "pgd",
    "purify", "straight_through",
]  # fmt: skip
