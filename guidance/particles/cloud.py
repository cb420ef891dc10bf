"""Cloud: what a particle method returns: K weighted particles for each sample, which never meet its batch mates'."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...solvers import Addressed
from ..guides.steering import Steered
from .resampling import ess, uniform_draws


@dataclass(frozen=True, eq=False)
class Cloud:
    """Weighted particles at the end of a run.

    Attributes:
        x: (B, K, ...);  log_weights: (B, K), summing to one in exp.
        log_z: (B,) log of the estimate of E[exp(r(x)/beta)] under the sampler's own law: unbiased, before the
            log.
        ess: (N, B) effective sample size after each step, before resampling;  resampled: (N, B) whether it
            was done.
        run: NFE, VJPs, seed.
    """

    x: Tensor
    log_weights: Tensor
    log_z: Tensor
    ess: Tensor
    resampled: Tensor
    run: Steered

    def mean(self, values: Tensor | None = None) -> Tensor:
        """sum_k w_k values_k over the particles, (B, ...); values (B, K, ...), default x."""
        values = self.x if values is None else values
        weights = self.log_weights.exp()
        return (weights.reshape(*weights.shape, *(1,) * (values.ndim - 2)) * values).sum(1)

    def draw(self, noise: Addressed) -> Tensor:
        """One particle of each sample by its weight, (B, ...)."""
        points, edges = (
            uniform_draws(noise, 0, self.log_weights[:, :1]),
            self.log_weights.double().exp().cumsum(1),
        )
        index = torch.searchsorted(edges, points).clamp(max=self.x.shape[1] - 1)[:, 0]  # round-off: below 1
        return self.x[torch.arange(len(self.x), device=self.x.device), index]

    @property
    def final_ess(self) -> Tensor:
        """(B,) effective sample size of the result."""
        return ess(self.log_weights)
