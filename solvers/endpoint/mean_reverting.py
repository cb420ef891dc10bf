"""Mean reversion: an Ornstein-Uhlenbeck process that drifts from an image to its degraded form."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..process import VP, DiscreteVP, Process
from ..wanted import Positive
from .process import EndpointProcess


@dataclass(frozen=True)
class MeanReverting(EndpointProcess):
    """dx = theta (mu - x) dt + g dw, g^2 = 2 level^2 theta: x_t = mu + alpha (x_0 - mu) + level sqrt(1 - alpha^2) eps.

    The endpoint is mu, the degraded image; x_T is mu with noise of deviation `level` on it. alpha = exp(-INT theta dt)
    is that of a variance-preserving `base`, whose drift is theta: VP() is a linear theta, a `DiscreteVP` any table.
    As an `EndpointProcess`: a = 1 - alpha, s = 1, sigma = level sqrt(1 - alpha^2).

    Args:
        level: deviation of the stationary noise, in the data's units (IR-SDE on images in [0, 1]: 10/255 to 70/255).
        base: alpha^2 + sigma^2 = 1.

    Source: Luo et al. 2023, arXiv 2301.11699 (IR-SDE), eq. 3 to 6; samplers: Li et al. 2025, arXiv 2502.07856 (MRS).

    Raises:
        ValueError: a base that does not preserve variance.
    """

    level: Positive
    base: Process = VP()

    def __post_init__(self) -> None:
        t = torch.linspace(self.base.t_min, self.base.t_max, 9, dtype=torch.float64)
        total = self.base.alpha(t) ** 2 + self.base.sigma(t) ** 2
        if not bool((total - 1).abs().max() < 1e-9):
            raise ValueError(
                f"MeanReverting: got {self.base} with alpha^2 + sigma^2 up to {float(total.max()):.4g}, expected 1 at "
                "all times; take VP(), CosineVP() or a DiscreteVP table as base"
            )

    @classmethod
    def ir_sde(cls, level: float, steps: int = 100, end: float = 0.005) -> "MeanReverting":
        """The published cosine table of `steps` levels, with alpha = `end` at the last: for levels k = 1 .. steps

            theta_k = 1 - (cos(pi/2 u_k)/cos(pi/2 u_-1))^2,  u_k = ((k + 1)/(steps + 2) + 0.008)/1.008
            log alpha_k = log(end) (theta_1 + ... + theta_k)/(theta_1 + ... + theta_steps)

        Times are 0 .. steps - 1 and -1 for the clean image, where its networks are told 1 .. steps:
        `Denoiser(..., label=Scaled(1, offset=1))`.
        """
        u = (torch.arange(steps + 2, dtype=torch.float64) / (steps + 2) + 0.008) / 1.008 * math.pi / 2
        theta = 1 - (u.cos() / u[0].cos()) ** 2
        total = theta[2:].cumsum(0)
        return cls(level, DiscreteVP(torch.exp(2 * math.log(end) * total / total[-1])))

    @property
    def t_min(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.base.t_min

    @property
    def t_max(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.base.t_max

    def log_alpha(self, t: Tensor | float) -> Tensor:
        return self.base.log_alpha(t)

    def log_sigma(self, t: Tensor | float) -> Tensor:
        return self.base.log_sigma(t) + math.log(self.level)

    def time(self, lam: Tensor | float) -> Tensor:
        return self.base.time(lam + math.log(self.level))

    def pull(self, t: Tensor | float) -> Tensor:
        return -torch.expm1(self.log_alpha(t))

    def start(self, end: Tensor, noise: Tensor) -> Tensor:
        """y_T of x_T = mu + level noise: the stationary law, as the published sampler starts."""
        return float(self.alpha(self.t_max)) * end + self.level * noise
