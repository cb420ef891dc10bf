"""Dequantisation: densities of whole levels, and bits per dimension."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ...solvers.broadcast import per_sample
from ...solvers.checked import CheckedFields
from ...solvers.noise import Noise
from ...solvers.plan import Plan
from ...solvers.wanted import Positive, Samples
from .prior import levels


class Dequantisation(CheckedFields, ABC):
    """A law q of x_t given levels x_0, spread over their cell alpha (x_0 -+ width/2) at the plan's first time.

    A model of densities gives a level the probability of its cell, and by Jensen's inequality

        -log2 P(x_0)/d <= E_q[-log2 p(x_t)/d] - (1/d) E_q[-log2 q(x_t | x_0)]

    the right side is `bits_per_dim`, an upper bound of the negative log-likelihood in bits per dimension.

    Attributes:
        width: between neighbouring levels of x_0: 2/255 for bytes scaled to [-1, 1].
    """

    width: Positive

    def __call__(self, x: Samples, plan: Plan, noise: Noise) -> Tensor:
        """x_t, (B, ...), drawn from q; `noise` is asked for slot 0, one draw a sample."""
        alpha, sigma = (per_sample(level.to(x), x) for level in levels(plan, 0))
        noise.check(1, x)
        uniform = torch.special.ndtr(noise(0, x).double())
        return alpha * x + self.spread(uniform, alpha, sigma).to(x)

    def bits_per_dim(self, log_prob: Tensor, plan: Plan, dims: int) -> Tensor:
        """Of log p(x_t), (B,), in nats, for samples of `dims` numbers. Differentiable."""
        alpha, sigma = levels(plan, 0)
        return -(log_prob / dims + self.entropy(alpha, sigma).to(log_prob)) / math.log(2)

    @abstractmethod
    def spread(self, uniform: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """x_t - alpha x_0 of numbers uniform on [0, 1]."""

    @abstractmethod
    def entropy(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """E_q[-log q] of one number, nats."""


@dataclass(frozen=True)
class UniformDequantisation(Dequantisation):
    """x_t = alpha (x_0 + width (u - 1/2)), u uniform on [0, 1]: entropy log(alpha width).

    Source: Uria et al. 2013, arXiv 1306.0186; the bound: Theis et al. 2016, arXiv 1511.01844, section 3.1.
    """

    width: Positive

    def spread(self, uniform: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return alpha * self.width * (uniform - 0.5)

    def entropy(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return (alpha * self.width).log()


@dataclass(frozen=True)
class NormalDequantisation(Dequantisation):
    """x_t = alpha x_0 + sigma n, n standard normal cut to |n| <= r = alpha width/(2 sigma): what the network was
    trained on, but for the cut. With Z = P(|n| <= r) the entropy is log(sigma Z sqrt(2 pi e)) - r phi(r)/Z.

    For plans that begin where sigma is some tenths of the width; sigma = 0 has no such law. The truncated-normal
    dequantisation of Zheng et al. 2023, arXiv 2305.03935 (derived here).
    """

    width: Positive

    def spread(self, uniform: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        _, inside = self._cut(alpha.double(), sigma.double())
        return sigma * torch.special.ndtri((1 - inside) / 2 + inside * uniform)

    def entropy(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        r, inside = self._cut(alpha, sigma)
        density = torch.exp(-0.5 * r**2) / math.sqrt(2 * math.pi)
        return (sigma * inside * math.sqrt(2 * math.pi * math.e)).log() - r * density / inside

    def _cut(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        if bool((sigma <= 0).any()):
            raise ValueError(
                f"{self}: got sigma = 0 at the plan's first time, expected sigma > 0; begin the grid later, or take "
                "UniformDequantisation"
            )
        r = alpha * self.width / (2 * sigma)
        return r, torch.special.erf(r / math.sqrt(2))
