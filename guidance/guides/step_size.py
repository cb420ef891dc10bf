"""Step-size policies: from a gradient per sample to a correction."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ...solvers.broadcast import per_sample
from ...solvers.checked import CheckedFields
from .context import Context
from .strengths import Strengths, strength_at


class StepSize(CheckedFields, ABC):
    """From g (B, ...), the gradient of a loss (B,) at x_t or at D, to what is subtracted, sample by sample.

    `Strengths` may be a number, a tensor with one for each sample, or `PerStep` with one for each step; tensors receive
    their gradient where the run is differentiated.
    """

    @abstractmethod
    def __call__(self, ctx: Context, gradient: Tensor, loss: Tensor, at_data: Tensor | None = None) -> Tensor:
        """The correction to subtract, in the gradient's shape.

        Args:
            at_data: (B, ...) the loss's gradient at the prediction, from which `gradient` was pulled back to
                x_t; None: `gradient` is that itself.
        """


def _norm(x: Tensor) -> Tensor:
    """Per-sample norm, never zero, shaped to broadcast."""
    return per_sample(x.flatten(1).norm(dim=1).clamp(min=torch.finfo(x.dtype).tiny), x)


@dataclass(frozen=True)
class Raw(StepSize):
    """scale g."""

    scale: Strengths = 1.0

    def __call__(self, ctx: Context, gradient: Tensor, loss: Tensor, at_data: Tensor | None = None) -> Tensor:
        return strength_at(ctx, self.scale) * gradient


@dataclass(frozen=True)
class Unit(StepSize):
    """scale g / |g|, the norm taken sample by sample.

    Source: Yang et al. 2024 (DSG), arXiv 2402.03201, with scale sqrt(d) std.
    """

    scale: Strengths = 1.0

    def __call__(self, ctx: Context, gradient: Tensor, loss: Tensor, at_data: Tensor | None = None) -> Tensor:
        return strength_at(ctx, self.scale) * gradient / _norm(gradient)


@dataclass(frozen=True)
class Residual(StepSize):
    """scale g / sqrt(loss), for a loss |r|^2: DPS's zeta / |y - A D|, the residual of each sample by itself.

    Source: Chung et al. 2023, arXiv 2209.14687, section C.2.
    """

    scale: Strengths = 1.0

    def __call__(self, ctx: Context, gradient: Tensor, loss: Tensor, at_data: Tensor | None = None) -> Tensor:
        return (
            strength_at(ctx, self.scale)
            * gradient
            / per_sample(loss.clamp(min=torch.finfo(loss.dtype).tiny).sqrt(), gradient)
        )


@dataclass(frozen=True)
class ScoreRatio(StepSize):
    """scale |eps| g / |g|: as long as the predicted noise times `scale`, eps = (x - alpha D)/sigma.

    Source: Yu et al. 2023 (FreeDoM), arXiv 2303.09833, released code, there with the classifier-free
    correction for eps.
    """

    scale: Strengths = 0.2

    def __call__(self, ctx: Context, gradient: Tensor, loss: Tensor, at_data: Tensor | None = None) -> Tensor:
        eps = (ctx.x - ctx.alpha * ctx.data) / ctx.sigma
        return strength_at(ctx, self.scale) * _norm(eps) * gradient / _norm(gradient)


@dataclass(frozen=True)
class Bayes(StepSize):
    """strength (dx_s/dD) (sigma^2/alpha) g, for hooks on the state and a loss in nats.

    It does to the state after the step what E[x_0|x_t, y] = D - (sigma^2/alpha) g in place of D would do: the
    weight of Bayes' rule, on any plan.
    """

    strength: Strengths = 1.0

    def __call__(self, ctx: Context, gradient: Tensor, loss: Tensor, at_data: Tensor | None = None) -> Tensor:
        return strength_at(ctx, self.strength) * ctx.gain * ctx.tweedie * gradient


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
    strength: Strengths = 1.0

    def __post_init__(self) -> None:
        if not self.noise_std > 0 or not self.gain >= 0:
            raise ValueError(
                f"SNR: got noise_std={self.noise_std}, gain={self.gain}, expected noise_std > 0 and gain >= 0"
            )

    def __call__(self, ctx: Context, gradient: Tensor, loss: Tensor, at_data: Tensor | None = None) -> Tensor:
        known = self.noise_std**2
        return (
            strength_at(ctx, self.strength) * known / (known + ctx.prior_variance * self.gain**2) * gradient
        )


@dataclass(frozen=True)
class Tweedie(StepSize):
    """strength (sigma^2/alpha) g, for hooks that change D and a loss in nats.

    With g at x_t the weight of Bayes' rule; with g at D, the Jacobian left out, what it would be for dD/dx_t
    the identity.
    """

    strength: Strengths = 1.0

    def __call__(self, ctx: Context, gradient: Tensor, loss: Tensor, at_data: Tensor | None = None) -> Tensor:
        return strength_at(ctx, self.strength) * ctx.tweedie * gradient


@dataclass(frozen=True)
class PiGDMWeight(StepSize):
    """strength alpha r_t^2 g / (dx_s/dD): the state after the step moves by alpha r_t^2 g, as published for `PiGDM`.

    Source: Song et al. 2023 (PiGDM), ICLR, algorithm 1, with r_t^2 = sigma^2/(alpha^2 + sigma^2).
    """

    strength: Strengths = 1.0

    def __call__(self, ctx: Context, gradient: Tensor, loss: Tensor, at_data: Tensor | None = None) -> Tensor:
        return strength_at(ctx, self.strength) * ctx.alpha * ctx.prior_variance / ctx.gain * gradient


@dataclass(frozen=True)
class Damped(StepSize):
    """policy(g) / (1 + c): the weight of Bayes' rule wherever the loss is weak, and never past its minimum.

    For a loss of at least 0 that is nearly quadratic, c (`overshoot`) is what D is still uncertain of over
    what the loss determines. A Gaussian likelihood of one number, `nats`, and Gaussian data: exactly
    E[x_0 given x_t, y]. As a loss grows the correction tends to the one that would make it vanish, whatever its units.

    Raises ValueError for a negative loss, of which no minimum is known.

    Source: the scalar form of TMPD (Boys et al. 2023, arXiv 2310.06721, eq. 8) along the gradient; Levenberg
    1944 for losses in general. No number to choose, no cost.
    """

    policy: StepSize

    def __call__(self, ctx: Context, gradient: Tensor, loss: Tensor, at_data: Tensor | None = None) -> Tensor:
        return self.policy(ctx, gradient, loss, at_data) / (1 + overshoot(ctx, gradient, loss, at_data))


@dataclass(frozen=True)
class Capped(StepSize):
    """policy(g) min(1, 1/c): as it is, but never past the minimum of the loss; c and errors as for `Damped`.

    For losses that have the uncertainty of D in them already, as `PiGDM`'s.
    """

    policy: StepSize

    def __call__(self, ctx: Context, gradient: Tensor, loss: Tensor, at_data: Tensor | None = None) -> Tensor:
        return self.policy(ctx, gradient, loss, at_data) / overshoot(ctx, gradient, loss, at_data).clamp(
            min=1.0
        )


@dataclass(frozen=True)
class Shell(StepSize):
    """policy(g), no longer than sigma_s sqrt(d), for hooks on the state: the state after the step stays where
    its noise could have put it.

    Source: Yang et al. 2024 (DSG), arXiv 2402.03201: guidance kept within the shell of the noise.
    """

    policy: StepSize

    def __call__(self, ctx: Context, gradient: Tensor, loss: Tensor, at_data: Tensor | None = None) -> Tensor:
        move = self.policy(ctx, gradient, loss, at_data)
        longest = ctx.next_sigma * gradient[0].numel() ** 0.5
        return move * (longest / _norm(move)).clamp(max=1.0)


def overshoot(ctx: Context, gradient: Tensor, loss: Tensor, at_data: Tensor | None) -> Tensor:
    """c = (sigma^2/alpha) <g_0, g> / (2 L), shaped to broadcast: by how much Bayes' move of D, (sigma^2/alpha) g, is
    longer than the one that makes a quadratic loss L >= 0 with the gradient g_0 at D vanish.

    For L = |y - A D|^2/(2 s^2) and r = y - A D it is r^T (A C A^T) r / (s^2 r^T r), C = (sigma^2/alpha) dD/dx_t.
    """
    if bool((loss < -1e-5).any()):  # a smoothed loss of zero may round to below it
        raise ValueError(
            f"loss: got {float(loss.min()):.4g}, expected at least 0 for a policy that reads the distance to the "
            "minimum off it; add a constant, or choose another policy such as Bayes() or Unit(scale)"
        )
    at_data = gradient if at_data is None else at_data
    slope = (at_data * gradient).flatten(1).sum(1).abs()  # a learned Jacobian may have it negative
    least = torch.finfo(loss.dtype).tiny  # at L = 0 there is no gradient either, and c = 0
    return ctx.tweedie * per_sample(slope / (2 * loss).clamp(min=least), gradient)
