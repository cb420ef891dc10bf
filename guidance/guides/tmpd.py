"""Guidance with the posterior covariance that the network itself implies."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...solvers import Model, Plan
from ..measurements.measurement import Measurement
from .context import Context
from .guide import Twist


@dataclass(frozen=True, eq=False)
class TMPD(Twist):
    """D' = D + C A^T (A C A^T + s_y^2 I)^-1 (y - A D), C = Cov[x_0|x_t] = (sigma^2/alpha) dD/dx_t (Tweedie's
    second moment).

    p(x_0|x_t) is taken for N(D, C): exact for any Gaussian data; for others the covariance is exact and the
    shape is not. No scale to choose. C A^T comes from m VJPs, C being symmetric; the m x m matrix is made
    symmetric and its eigenvalues are kept from being negative, which a learned network does not promise.
    Source: Boys et al. 2023, arXiv 2310.06721, eq. 8-9. Cost: m VJPs a call for m measured numbers a sample,
    one O(m^3) solve.
    """

    measurement: Measurement
    most: int = 256
    differentiates = True

    def check(self, denoiser: Model, plan: Plan, x: Tensor) -> None:
        self.measurement.check(x, "A_adjoint", noisy=True)
        if (m := self.measurement.y[0].numel()) > self.most:
            raise ValueError(
                f"TMPD: got {m} measured numbers a sample, expected at most {self.most}: it makes one VJP "
                "for each at every call; use PiGDM, or raise most="
            )

    def data(self, ctx: Context, data: Tensor) -> Tensor:
        m = self.measurement
        rest = m.residual(ctx.data)
        ctx.report(rest.flatten(1).square().sum(1))
        shift, log_likelihood = conditioned(ctx, m, rest)
        ctx.memory(self)["log_likelihood"] = log_likelihood.detach()
        return data + shift

    def log_likelihood(self, ctx: Context) -> Tensor:
        return ctx.memory(self)["log_likelihood"]


def conditioned(ctx: Context, m: Measurement, rest: Tensor) -> tuple[Tensor, Tensor]:
    """C A^T S^-1 rest and log N(rest; 0, S) (B,) up to a constant, S = A C A^T + s_y^2 I: one VJP for each
    measured number.
    """
    size, flat = rest[0].numel(), rest.flatten(1)
    units = (
        torch.eye(size, dtype=rest.dtype, device=rest.device)
        .reshape(size, 1, *rest.shape[1:])
        .expand(-1, *rest.shape)
    )
    columns = torch.stack([ctx.tweedie * ctx.vjp(m.pull(unit, ctx.data)) for unit in units], 1)  # (B, m, ...)
    seen = torch.stack([m.physics.A(column).flatten(1) for column in columns.unbind(1)], 1)
    values, vectors = torch.linalg.eigh((seen + seen.mT) / 2)
    values, turned = values.clamp(min=0.0) + m.variance, (vectors.mT @ flat[..., None])[..., 0]
    weights = (vectors @ (turned / values)[..., None])[..., 0]
    log_likelihood = -0.5 * (turned.square() / values + values.log()).sum(1)
    return (weights.reshape(len(flat), size, *(1,) * (columns.ndim - 2)) * columns).sum(1), log_likelihood
