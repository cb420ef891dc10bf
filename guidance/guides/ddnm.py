"""Denoising diffusion null-space model."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...solvers import Model, Plan
from ..measurements.measurement import Measurement
from .context import Context
from .guide import Guide


@dataclass(frozen=True, eq=False)
class DDNM(Guide):
    """D' = D + lambda A^+ (y - A D): the range of A^T from y, its null space from the network.

    lambda = min(1, sigma_s/(alpha_s s_y)), so that the noise of y never exceeds that of x_s (DDNM+ with A^+
    of unit gain).

    Source: Wang et al. 2022, arXiv 2212.00490, eq. 13 and 19. Cost: no VJP, one A^+ a call; any plan that
    denoises.
    """

    measurement: Measurement

    def check(self, denoiser: Model, plan: Plan, x: Tensor) -> None:
        self.measurement.check(x, "A_dagger")

    def data(self, ctx: Context, data: Tensor) -> Tensor:
        m = self.measurement
        residual = m.residual(ctx.data)
        ctx.report(residual.flatten(1).square().sum(1))
        lam = torch.ones_like(ctx.alpha)
        if m.std > 0:
            lam = (ctx.next_sigma / (ctx.next_alpha * m.std)).clamp(max=1.0)
        return data + lam * m.physics.A_dagger(residual).reshape(data.shape)
