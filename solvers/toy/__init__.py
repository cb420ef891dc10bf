"""Gaussians and mixtures with exact answers, the oracle of the tests. Knows processes, no method and no gradient."""

from .mixture import Gaussian, Mixture

__all__ = [
    "Gaussian", "Mixture",
]  # fmt: skip
