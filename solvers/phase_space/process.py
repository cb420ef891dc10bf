"""Phase-space Langevin diffusion: position and momentum, critically damped."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..process import Process, as_time
from ..wanted import NonNegative, Positive


@dataclass(frozen=True)
class PhaseSpaceLangevin(Process):
    """For z = (x, m), one state `torch.cat([x, m], 1)`:

        dz = beta A z dt + sqrt(beta D) dw,  A = [[-gamma, 1/M], [-1, -nu]]/2,  D = diag(gamma, M nu)

    from data x_0 and m_0 ~ N(0, kappa M I), with 1/M = (gamma - nu)^2/4: critical damping. It comes to rest in N(0, S),
    S = diag(1, M). In the clock u = INT beta dt everything is a function of differences of u:

        z_t = e^{Au} z_0 + noise,  e^{Au} = e^{-ru} (I + u (A + r I)),  r = (gamma + nu)/4
        Cov[z_t given x_0] = S + e^{Au} (diag(0, kappa M) - S) e^{Au}^T

    alpha, sigma and lambda are those of the position, for grids. A network predicts SCORE, the gradient of log p_t in
    (x, m), as one tensor in the form of z; `CholeskyNoise` makes it of the published networks' noise predictions.

    Args:
        gamma, nu: friction of the position and of the momentum. gamma = 0 is CLD (`cld`).
        beta_min, beta_max: beta(t) is linear in t.
        kappa: of the momentum's first variance, in units of M.
        t_min: where sampling ends: the score of the position is infinite at 0.

    Source: Pandey and Mandt 2023, arXiv 2303.01748 (PSLD), eq. 10 to 13, whose defaults these are; Dockhorn et al.
    2022, arXiv 2112.07068 (CLD). Raises ValueError for gamma = nu.
    """

    gamma: NonNegative = 0.01
    nu: NonNegative = 4.01
    beta_min: Positive = 8.0
    beta_max: Positive = 8.0
    kappa: Positive = 0.04
    t_min: float = 1e-3
    t_max: float = 1.0

    def __post_init__(self) -> None:
        if self.gamma == self.nu:
            raise ValueError(
                f"PhaseSpaceLangevin: got gamma = nu = {self.nu}, expected two numbers: at critical damping their "
                "difference is the inverse mass's root; take gamma=0.01, nu=4.01"
            )

    @classmethod
    def cld(cls, friction: float = 1.0, beta: float = 4.0, kappa: float = 0.04) -> "PhaseSpaceLangevin":
        """CLD in its own parameters: dx = (beta/M) m dt, dm = -beta (x + (friction/M) m) dt + sqrt(2 friction beta) dw,
        M = friction^2/4.
        """
        return cls(0.0, 4 / friction, 2 * beta, 2 * beta, kappa)

    @property
    def mass(self) -> float:
        """M."""
        return 4 / (self.gamma - self.nu) ** 2

    @cached_property
    def drift(self) -> Tensor:
        """A, (2, 2) float64."""
        return torch.tensor([[-self.gamma, 1 / self.mass], [-1.0, -self.nu]], dtype=torch.float64) / 2

    @cached_property
    def diffusion(self) -> Tensor:
        """D, (2, 2) float64."""
        return torch.diag(torch.tensor([self.gamma, self.mass * self.nu], dtype=torch.float64))

    @cached_property
    def rest(self) -> Tensor:
        """S, (2, 2) float64."""
        return torch.diag(torch.tensor([1.0, self.mass], dtype=torch.float64))

    def beta(self, t: Tensor | float) -> Tensor:
        """beta(t)."""
        return self.beta_min + (self.beta_max - self.beta_min) * as_time(t)

    def clock(self, t: Tensor | float) -> Tensor:
        """u(t) = INT_0^t beta."""
        t = as_time(t)
        return self.beta_min * t + (self.beta_max - self.beta_min) / 2 * t**2

    def time_at(self, u: Tensor | float) -> Tensor:
        """t(u)."""
        u = as_time(u)
        # the root written without cancellation, also where beta is constant
        return (
            2 * u / (self.beta_min + torch.sqrt(self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * u))
        )

    def flow(self, u: Tensor | float) -> Tensor:
        """e^{Au}, (..., 2, 2), for a difference u of the clock of either sign."""
        u, c = as_time(u), (self.nu - self.gamma) / 4
        rows = (1 + c * u, u / (2 * self.mass)), (-u / 2, 1 - c * u)
        scale = torch.exp(-(self.gamma + self.nu) / 4 * u)
        return scale[..., None, None] * torch.stack([torch.stack(row, -1) for row in rows], -2)

    def covariance(self, u: Tensor | float) -> Tensor:
        """Cov[z_t given x_0] at clock u, (..., 2, 2)."""
        x, m = self.flow(u).unbind(-1)  # what is left of the start's position and momentum

        def left(i: int, j: int) -> Tensor:
            return (self.kappa - 1) * self.mass * m[..., i] * m[..., j] - x[..., i] * x[..., j]

        rows = (1 + left(0, 0), left(0, 1)), (left(1, 0), self.mass + left(1, 1))
        return torch.stack([torch.stack(row, -1) for row in rows], -2)

    def start(self, noise: Tensor) -> Tensor:
        """z at t_max, at rest, from noise ~ N(0, I) in the form of z."""
        x, m = noise.chunk(2, 1)
        return torch.cat([x, math.sqrt(self.mass) * m], 1)

    def check_conversion(self, have: str, want: str) -> None:
        raise ValueError(
            f"{self}: got a {have} network and a plan that asks for {want}, expected SCORE: alpha and sigma are "
            "those of the position alone; take a method of position and momentum, such as SSCS(2)"
        )

    def log_alpha(self, t: Tensor | float) -> Tensor:
        return self.flow(self.clock(t))[..., 0, 0].log()

    def log_sigma(self, t: Tensor | float) -> Tensor:
        return 0.5 * self.covariance(self.clock(t))[..., 0, 0].log()
