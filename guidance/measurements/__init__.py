"""Measurements y = A(x) + noise and their operators: what inverse problems know. Knows no guide and no sampler."""

from .decoded import Decoded
from .measurement import Measurement
from .nonlinear import Clipping, NonLinear, PhaseRetrieval
from .operators import Blur, Downsample, GaussianNoise, Linear, Mask, Matrix, Operator

__all__ = [
    "Blur", "Clipping", "Decoded", "Downsample", "GaussianNoise", "Linear", "Mask", "Matrix", "Measurement",
    "NonLinear", "Operator", "PhaseRetrieval",
]  # fmt: skip
