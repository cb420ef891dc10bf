"""Attacks through a sampler (PGD, AdvDiff) and the defence by one (purification). Knows guides; trains nothing."""

from .adversarial_guidance import Adversarial, advdiff
from .attack import Attack, pgd
from .balls import L2, Ball, Linf
from .expectation import Expectation
from .purification import purify, straight_through

__all__ = [
    "Adversarial", "Attack", "Ball", "Expectation", "L2", "Linf", "advdiff", "pgd", "purify", "straight_through",
]  # fmt: skip
