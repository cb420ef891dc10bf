"""Step-size policies: from a gradient per sample to a correction."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ...solvers.broadcast import per_sample
from .context import Context


class StepSize(ABC):
    """From g (B, ...), the gradient of a loss (B,) at x_t or at D, to what is subtracted, sample by sample."""

    @abstractmethod
    def __call__(self, ctx: Context, gradient: Tensor, loss: Tensor) -> Tensor:
        """The correction to subtract, in the gradient's shape."""


def _norm(x: Tensor) -> Tensor:
    """Per-sample norm, never zero, shaped to broadcast."""
    return per_sample(x.flatten(1).norm(dim=1).clamp(min=torch.finfo(x.dtype).tiny), x)


@dataclass(frozen=True)
class Raw(StepSize):
    """scale g."""

    scale: float = 1.0

    def __call__(self, ctx: Context, gradient: Tensor, loss: Tensor) -> Tensor:
        return self.scale * gradient


@dataclass(frozen=True)
class Unit(StepSize):
    """scale g / |g|, the norm taken sample by sample.

    Source: Yang et al. 2024 (DSG), arXiv 2402.03201, with scale sqrt(d) std.
    """

    scale: float = 1.0

    def __call__(self, ctx: Context, gradient: Tensor, loss: Tensor) -> Tensor:
        return self.scale * gradient / _norm(gradient)


@dataclass(frozen=True)
class Residual(StepSize):
    """scale g / sqrt(loss), for a loss |r|^2: DPS's zeta / |y - A D|, the residual of each sample by itself.

    Source: Chung et al. 2023, arXiv 2209.14687, section C.2.
    """

    scale: float = 1.0

    def __call__(self, ctx: Context, gradient: Tensor, loss: Tensor) -> Tensor:
        return (
            self.scale * gradient / per_sample(loss.clamp(min=torch.finfo(loss.dtype).tiny).sqrt(), gradient)
        )


@dataclass(frozen=True)
class ScoreRatio(StepSize):
    """scale |eps| g / |g|: as long as the predicted noise times `scale`, eps = (x - alpha D)/sigma.

    Source: Yu et al. 2023 (FreeDoM), arXiv 2303.09833, released code, there with the classifier-free
    correction for eps.
    """

    scale: float = 0.2

    def __call__(self, ctx: Context, gradient: Tensor, loss: Tensor) -> Tensor:
        eps = (ctx.x.detach() - ctx.alpha * ctx.data) / ctx.sigma
        return self.scale * _norm(eps) * gradient / _norm(gradient)


@dataclass(frozen=True)
class Bayes(StepSize):
    """strength (dx_s/dD) (sigma^2/alpha) g, for hooks on the state and a loss in nats.

    It does to the state after the step what E[x_0|x_t, y] = D - (sigma^2/alpha) g in place of D would do: the
    weight of Bayes' rule, on any plan.
    """

    strength: float = 1.0

    def __call__(self, ctx: Context, gradient: Tensor, loss: Tensor) -> Tensor:
        return self.strength * ctx.gain * ctx.tweedie * gradient


@dataclass(frozen=True)
class SNR(StepSize):
    """strength s_y^2 / (s_y^2 + r_t^2 gain^2) g with r_t^2 = sigma^2/(alpha^2 + sigma^2): one dimensionless strength.

    For a loss in nats, |y - A D|^2 / (2 s_y^2): what D does not know yet, r_t^2 gain^2, widens the noise
    s_y^2. It is the scalar form of PiGDM, and equals it where A A^T = gain^2 I.

    Args:
        noise_std: s_y.  gain: of A (and not dx_s/dD, which `ctx.gain` is).

    Source: Song et al. 2023 (PiGDM), ICLR, eq. 7.
    """

    noise_std: float
    gain: float = 1.0
    strength: float = 1.0

    def __post_init__(self) -> None:
        if not self.noise_std > 0 or not self.gain >= 0:
            raise ValueError(
                f"SNR: got noise_std={self.noise_std}, gain={self.gain}, expected noise_std > 0 and gain >= 0"
            )

    def __call__(self, ctx: Context, gradient: Tensor, loss: Tensor) -> Tensor:
        known = self.noise_std**2
        return self.strength * known / (known + ctx.prior_variance * self.gain**2) * gradient
