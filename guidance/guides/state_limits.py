"""How far from its prediction a steered state may lie before the run counts as diverged."""

import warnings

import torch
from torch import Tensor

from ...adjoint.not_finite import blanked
from ...solvers import Plan
from ...solvers.broadcast import per_sample
from .guide import Guide

FARTHEST = 100.0
REMEDIES = (
    "lower the guide's scale, choose a policy that does not overshoot such as Damped(Bayes()), leave its wildest steps "
    "out with guide.during(start, stop), or keep predictions in the data's range with OnData(method, Clamp(low, high))"
)


class StateLimits:
    """|x_s - alpha_s D(x_t)| <= FARTHEST sqrt(d) sqrt(alpha_s^2 size^2 + sigma_s^2) after every step of a run.

    A step of a sampler leaves x_s about sigma_s away from alpha_s D(x_t), whatever the data are, and a guide
    that works adds something of their size; one that diverges soon exceeds it by orders of magnitude. The
    size of the data is not known: the root mean square of the first prediction, which no guide has touched,
    stands for it, and 1 at the least, because that prediction may be next to zero, the mean of the data.
    """

    def __init__(self, plan: Plan, guide: Guide, keep_finite: bool) -> None:
        self.plan, self.guide, self.keep_finite = plan, guide, keep_finite
        self.alphas: list[Tensor] = []
        self.size: Tensor | None = None
        self.limits: list[Tensor] = []

    def begin(self, first: Tensor) -> None:
        """Set the limits of every node from the run's first prediction (B, ...)."""
        flat, process = first.detach().flatten(1), self.plan.process
        times = torch.tensor(
            self.plan.times, dtype=torch.float64
        )  # (N + 1,), or (N + 1, B) of a stacked plan
        alphas, sigmas = (
            level(times).reshape(len(times), -1).to(flat) for level in (process.alpha, process.sigma)
        )
        size = flat.square().mean(1).clamp(min=1.0)
        self.size = size.sqrt()
        limits = FARTHEST * (flat.shape[1] * (alphas.square() * size + sigmas.square())).sqrt()
        self.alphas = [per_sample(alpha, first) for alpha in alphas]
        self.limits = list(limits)

    def within(self, step: int, x: Tensor, data: Tensor) -> Tensor:
        """The state x after a step, of samples within reach of data = D(x_t), their first prediction.

        Where one is not, raise FloatingPointError; with `keep_finite` it is NaN. A state that is not finite is
        left to the check for that.
        """
        if not self.limits:
            self.begin(data)
        far = (x - self.alphas[step + 1] * data).detach().flatten(1)
        distance = torch.linalg.vector_norm(far, dim=1)
        beyond = distance > self.limits[step + 1]
        if not bool(beyond.any()):
            return x
        if self.keep_finite:
            return blanked(x, beyond)
        ratios = FARTHEST * distance / self.limits[step + 1]
        ratios = ratios.where(ratios.isfinite(), 0.0)
        if float(ratios.max()) > FARTHEST:
            raise FloatingPointError(
                f"{self.guide.name}: diverged at step {step} (t={self.plan.times[step]}): got sample "
                f"{int(ratios.argmax())} {float(ratios.max()):.3g} times as far from its prediction as noise and data "
                f"account for, expected at most {FARTHEST:g}; {REMEDIES}, or scale the data to about 1"
            )
        return x

    def warn_of(self, sample: Tensor) -> None:
        """Warn of samples that prediction and state have run away to together: they are near each other, and far from
        any data of the size that the first prediction had.
        """
        if self.size is None or not len(sample):
            return
        ratios = sample.detach().flatten(1).square().mean(1).sqrt() / self.size
        ratios = ratios.where(ratios.isfinite(), 0.0)
        if float(ratios.max()) > FARTHEST:
            warnings.warn(
                f"{self.guide.name}: got sample {int(ratios.argmax())} {float(ratios.max()):.3g} times as large as its "
                f"first prediction and 1, expected at most {FARTHEST:g}: the run has diverged, or the data are "
                f"hundreds of units wide; {REMEDIES}",
                UserWarning,
                stacklevel=3,
            )
