"""Operators that are not linear: guides reach them through a loss and autograd."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...solvers.cut_off import cut_off
from .operators import GaussianNoise, Operator


@dataclass(frozen=True, eq=False)
class PhaseRetrieval(Operator):
    """y = |F x|: magnitudes of the orthonormal Fourier transform of images (B, C, H, W) padded with `padding`
    zeros all round.
    """

    padding: int = 0
    noise_model: GaussianNoise = GaussianNoise()

    def __post_init__(self) -> None:
        if self.padding < 0:
            raise ValueError(f"PhaseRetrieval: got padding={self.padding}, expected at least 0")

    def A(self, x: Tensor) -> Tensor:
        if x.ndim != 4:
            raise ValueError(f"PhaseRetrieval: got samples {tuple(x.shape)}, expected (B, C, H, W)")
        return torch.fft.fft2(torch.nn.functional.pad(x, (self.padding,) * 4), norm="ortho").abs()


@dataclass(frozen=True, eq=False)
class Clipping(Operator):
    """y = min(max(gain x, low), high): high dynamic range, saturated sensors. The gradient is zero where it clips."""

    low: float = -1.0
    high: float = 1.0
    gain: float = 2.0
    noise_model: GaussianNoise = GaussianNoise()

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"Clipping: got low={self.low}, high={self.high}, expected low < high")

    def A(self, x: Tensor) -> Tensor:
        return cut_off(self.gain * x, self.low, self.high)


@dataclass(frozen=True, eq=False)
class NonLinear(Operator):
    """y = fn(x) for any differentiable fn from (B, ...) to (B, ...) that treats samples apart."""

    fn: Callable[[Tensor], Tensor]
    noise_model: GaussianNoise = GaussianNoise()

    def A(self, x: Tensor) -> Tensor:
        return self.fn(x)
