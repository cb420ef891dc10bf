"""Realism: what an identity loss does not see, a face that no camera takes, made to cost something."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...solvers import Addressed, Model
from ...solvers.broadcast import per_sample
from ...solvers.checked import CheckedFields
from ...solvers.model import data_prediction
from .averaging import Averaging, PlainAverage
from .scene import Scene


class Realism(CheckedFields, ABC):
    """A penalty (B,) on images (B, ...), of one sample never depending on another."""

    weight: float

    @property
    def nfe(self) -> int:
        """Network evaluations, and VJPs where a gradient is taken, of one call."""
        return 0

    def reference(self, scene: Scene) -> Any:
        """What it compares with, made once a morph: any nesting of tensors (B, ...)."""
        return ()

    @abstractmethod
    def __call__(self, model: Model, images: Tensor, reference: Any) -> Tensor:
        """The penalty (B,), weight included; `reference` has a row for each of the images."""


@dataclass(frozen=True)
class Anchor(Realism):
    """weight mean |x - m|^2 over the numbers of a sample, m the average of the two subjects, encoded and decoded: their
    mean as the model would draw it.

    Cost: one encoding and one run a morph.
    """

    weight: float = 1.0
    averaging: Averaging = PlainAverage()

    def reference(self, scene: Scene) -> Any:
        return scene.inverted(self.averaging, 0.5)[1]

    def __call__(self, model: Model, images: Tensor, reference: Any) -> Tensor:
        return self.weight * (images - reference).flatten(1).square().mean(1)


@dataclass(frozen=True)
class DenoiserError(Realism):
    """weight mean_j |n_j - eps(alpha_j x + sigma_j n_j, t_j)|^2 / d: how badly the model undoes noise that is put on x.

    Near the data the error is what the model was trained to make small; off it the model pulls x_t back to the data,
    by a part of the distance that grows with sigma_j, and the error with that. One n_j for all samples, from a fixed
    seed: a deterministic function of x, whose differences are exact although its level is a draw.

    Args:
        times: t_j.  seed: of n_j.

    Cost: one evaluation, and one VJP in a gradient, a time. Source: the loss that the model was trained by, as in
    score distillation (Poole et al. 2022, arXiv 2209.14988), here with its whole gradient.
    """

    weight: float = 1.0
    times: tuple[float, ...] = (0.2, 0.4)
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.times, tuple) or not self.times:
            raise ValueError(
                f"DenoiserError: got times={self.times!r}, expected a tuple of at least one time of the process; pass "
                "times=(0.2,)"
            )
        Addressed(self.seed)  # says what is wrong with a seed

    @property
    def nfe(self) -> int:
        return len(self.times)

    def reference(self, scene: Scene) -> Any:
        for t in self.times:
            alpha, sigma = scene.model.process.alpha(t), scene.model.process.sigma(t)
            if not (float(alpha) > 0 and float(sigma) > 0):
                raise ValueError(
                    f"DenoiserError: got time {t} with alpha={float(alpha):g}, sigma={float(sigma):g} on "
                    f"{scene.model.process}, expected a level with data and noise; pass times inside the process"
                )
        return scene.pair.cond(0.5)

    def __call__(self, model: Model, images: Tensor, reference: Any) -> Tensor:
        total = images.new_zeros(len(images))
        for j, t in enumerate(self.times):
            alpha, sigma = (
                per_sample(v(t).to(images), images) for v in (model.process.alpha, model.process.sigma)
            )
            noise = Addressed(self.seed)(j, images[:1].detach())
            data = data_prediction(model, alpha * images + sigma * noise, t, reference)
            # n - eps = alpha (D - x) / sigma
            error = (alpha / sigma * (data - images)).flatten(1).square().mean(1)
            total = total + error
        return self.weight * total / len(self.times)
