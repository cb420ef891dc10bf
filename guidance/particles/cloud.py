"""Cloud: what a particle method returns: K weighted particles for each sample, which never meet its batch mates'."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...adjoint.not_finite import which_samples
from ...solvers import Addressed
from ...solvers.notebook import Shown
from ..guides.steering import Steered
from .resampling import uniform_draws


@dataclass(frozen=True, eq=False, repr=False)
class Cloud(Shown):
    """Weighted particles at the end of a run.

    Attributes:
        x: (B, K, ...);  log_weights: (B, K), summing to one in exp; NaN, and means with them, for a sample whose
            particles all have a reward of -inf.
        log_z: (B,) log of the estimate of E[exp(r(x)/beta)] under the law of the sampler's own draws: of this
            plan with this N, which is not the data's. Unbiased before the log; after it low, where weights vary,
            by about half of `relative_variance`.
        relative_variance: (B,) estimate of Var[exp(log_z)]/E[exp(log_z)]^2, about the squared standard error of
            log_z, from how many of the first particles have descendants; near 1 no more than that it is large.
        ess: (N, B) effective sample size after each step, before resampling;  resampled: (N, B) whether it
            was done.
        run: NFE, VJPs, seed.
    """

    x: Tensor
    log_weights: Tensor
    log_z: Tensor
    relative_variance: Tensor
    ess: Tensor
    resampled: Tensor
    run: Steered

    def mean(self, values: Tensor | None = None) -> Tensor:
        """sum_k w_k values_k over the particles, (B, ...); values (B, K, ...), default x."""
        values = self.x if values is None else values
        weights = self.log_weights.exp()
        return (weights.reshape(*weights.shape, *(1,) * (values.ndim - 2)) * values).sum(1)

    def draw(self, noise: Addressed) -> Tensor:
        """One particle of each sample by its weight, (B, ...). Raises ValueError where none has any."""
        empty = self.log_weights.isnan().any(1)
        if bool(empty.any()):
            raise ValueError(
                f"draw: got no particle of any weight for {which_samples(empty)}, expected at least one of a finite "
                "reward; take more particles, or leave these samples out"
            )
        points, edges = (
            uniform_draws(noise, 0, self.log_weights[:, :1]),
            self.log_weights.double().exp().cumsum(1),
        )
        index = torch.searchsorted(edges, points).clamp(max=self.x.shape[1] - 1)[:, 0]  # round-off: below 1
        return self.x[torch.arange(len(self.x), device=self.x.device), index]

    @property
    def least_ess(self) -> Tensor:
        """(B,) effective sample size at its least, over the steps: what log_z and means are worth."""
        return self.ess.amin(0)

    @property
    def final_ess(self) -> Tensor:
        """(B,) effective sample size of the result. It says nothing of particles lost on the way."""
        return self.ess[-1]
