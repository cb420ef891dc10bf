"""Diffusion bridges: a process pinned at both ends."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from ..cut_off import cut_off
from ..process import VP, Process
from ..wanted import OWN_WORDS
from .process import EndpointProcess


@dataclass(frozen=True)
class DiffusionBridge(EndpointProcess):
    """`base` pinned at its value x_T at time T: x_t = a x_T + b x_0 + c eps,

        r = exp(2 (lambda_T - lambda_t)),  a = r alpha_t/alpha_T,  b = alpha_t (1 - r),  c = sigma_t sqrt(1 - r)

    with alpha, sigma, lambda of `base`: VE(), EDM() and VP() give the published bridges. The endpoint is x_T. As an
    `EndpointProcess`: s = sqrt(b^2 + c^2), so that y = (b x_0 + c eps)/s goes from x_0 at t = 0 to pure noise at T,
    where lambda = log(b/c) is -infinity and s = 0. The network sees x_T alone there, and the noise that y starts from
    is the booting noise of DBIM: a latent like any other.

    Args:
        base: the process that is pinned.
        end: T, by default base.t_max; alpha(T) > 0.

    Source: Zhou et al. 2023, arXiv 2309.16948 (DDBM), table 1; Zheng et al. 2024, arXiv 2405.15885 (DBIM), eq. 4.

    Raises:
        ValueError: T outside the base, or with alpha(T) = 0.
    """

    base: Process = VP()
    end: Annotated[float | None, OWN_WORDS] = None

    def __post_init__(self) -> None:
        if not self.base.t_min < self.t_max <= self.base.t_max or not bool(self._lam_end().isfinite()):
            raise ValueError(
                f"DiffusionBridge: got end={self.t_max} on {self.base}, expected a time in ({self.base.t_min:g}, "
                f"{self.base.t_max:g}] at which alpha and sigma are positive; give end= a little less"
            )

    @property
    def t_min(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.base.t_min

    @property
    def t_max(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.base.t_max if self.end is None else self.end

    def lam(self, t: Tensor | float) -> Tensor:
        return self.base.lam(t) + self._log_left(t) / 2

    def log_alpha(self, t: Tensor | float) -> Tensor:
        return -0.5 * torch.nn.functional.softplus(-2 * self.lam(t))

    def log_sigma(self, t: Tensor | float) -> Tensor:
        return -0.5 * torch.nn.functional.softplus(2 * self.lam(t))

    def time(self, lam: Tensor | float) -> Tensor:
        # e^(2 lambda) here is that of the base less its value at T
        lam = torch.as_tensor(lam, dtype=torch.float64)
        return self.base.time(torch.logaddexp(2 * lam, 2 * self._lam_end().to(lam)) / 2)

    def pull(self, t: Tensor | float) -> Tensor:
        end = self.base.log_alpha(self.t_max)
        return torch.exp(self._log_ratio(t) + self.base.log_alpha(t) - end)

    def scale(self, t: Tensor | float) -> Tensor:
        left = self._log_left(t)
        return torch.exp(
            0.5 * (left + torch.logaddexp(2 * self.base.log_alpha(t) + left, 2 * self.base.log_sigma(t)))
        )

    def start(self, end: Tensor, noise: Tensor) -> Tensor:
        """The booting noise itself."""
        return noise

    def _lam_end(self) -> Tensor:
        return self.base.lam(self.t_max)

    def _log_ratio(self, t: Tensor | float) -> Tensor:
        """log r, at most 0: a time that was rounded to float32 may lie beyond T."""
        return cut_off(2 * (self._lam_end() - self.base.lam(t)), high=0.0)

    def _log_left(self, t: Tensor | float) -> Tensor:
        """log(1 - r)."""
        return torch.log(-torch.expm1(self._log_ratio(t)))
