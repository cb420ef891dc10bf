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
    shape is not. No scale to choose.

    Args:
        most: greatest m, the measured numbers of a sample, without those that say nothing of it (what a
            `Mask` hides): each costs a VJP at every call.

    Source: Boys et al. 2023, arXiv 2310.06721, eq. 8-9. Cost: m VJPs a call and one O(m^3) solve; any plan
    that denoises.
    """

    measurement: Measurement
    most: int = 256
    differentiates = True

    def check(self, denoiser: Model, plan: Plan, x: Tensor) -> None:
        self.measurement.check(x, "A_adjoint", noisy=True)
        if not 0 < (m := len(self.measurement.rows(x))) <= self.most:
            raise ValueError(
                f"TMPD: got {m} measured numbers a sample, expected 1 to {self.most}: it makes one VJP "
                "for each at every call; use PiGDM, or raise most="
            )

    def data(self, ctx: Context, data: Tensor) -> Tensor:
        m = self.measurement
        residual = m.residual(ctx.data)
        ctx.report(residual.flatten(1).square().sum(1))
        memory = ctx.memory(self)
        if "rows" not in memory:
            memory["rows"] = m.rows(ctx.data)
        shift, log_likelihood = conditioned(ctx, m, residual, memory["rows"])
        memory["log_likelihood"] = log_likelihood
        return data + shift

    def log_likelihood(self, ctx: Context) -> Tensor:
        return ctx.memory(self)["log_likelihood"]


def conditioned(ctx: Context, m: Measurement, residual: Tensor, rows: list[int]) -> tuple[Tensor, Tensor]:
    """C A^T S^-1 residual and log N(residual; 0, S) (B,) up to a constant, S = A C A^T + s_y^2 I, for the
    measured numbers `rows` of each sample: one VJP for each.
    """
    flat = residual.flatten(1)
    units = torch.eye(flat.shape[1], dtype=residual.dtype, device=residual.device)[rows]
    units = units.reshape(len(rows), 1, *residual.shape[1:]).expand(-1, *residual.shape)
    flat = flat[:, rows]
    # C is symmetric: column j of C A^T is (sigma^2/alpha) (dD/dx_t)^T A^T e_j
    columns = torch.stack([ctx.tweedie * ctx.vjp(m.pull(unit, ctx.data)) for unit in units], 1)  # (B, m, ...)
    seen = torch.stack(
        [m.physics.A(column).flatten(1)[:, rows] for column in columns.unbind(1)], 1
    )  # A C A^T
    # that A C A^T is symmetric and has no negative eigenvalue is not what a learned network promises
    values, vectors = torch.linalg.eigh((seen + seen.mT) / 2)
    values, turned = values.clamp(min=0.0) + m.variance, (vectors.mT @ flat[..., None])[..., 0]
    weights = (vectors @ (turned / values)[..., None])[..., 0]  # S^-1 residual
    log_likelihood = -0.5 * (turned.square() / values + values.log()).sum(1)
    return (weights.reshape(*weights.shape, *(1,) * (columns.ndim - 2)) * columns).sum(1), log_likelihood
