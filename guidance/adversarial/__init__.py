"""Attacks through a sampler (PGD, AdvDiff) and the defence by one (purification). Knows guides; trains nothing."""

from .adversarial_guidance import Adversarial, advdiff
from .attack import L2, Attack, Ball, Linf, pgd
from .purification import purify, straight_through

__all__ = [
    "Adversarial", "Attack", "Ball", "L2", "Linf", "advdiff", "pgd", "purify", "straight_through",
]  # fmt: skip
