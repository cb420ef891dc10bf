"""MorphStrategy: how a morph is looked for."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from ...solvers.checked import CheckedFields
from ...solvers.notebook import Shown
from ..latents.found import Stop
from .latent import Latents
from .pair_loss import PairLoss
from .scene import Scene


@dataclass(frozen=True, eq=False, repr=False)
class Found(Shown):
    """What a strategy came to: images (B, ...), the latents that a plain run gives them from (None where no run does),
    and why it ended.
    """

    images: Tensor
    latents: Latents | None = None
    stop: Stop | None = None


class MorphStrategy(CheckedFields, ABC):
    """A way to a morph. One that improves upon another takes that as its `start`.

    `differentiates`: whether it takes gradients of the loss, so that every recogniser must have one.
    """

    differentiates: bool = False

    @abstractmethod
    def run(self, scene: Scene, loss: PairLoss) -> Found:
        """The morphs of the scene's pairs. What it costs is counted by `scene.spent`."""

    def parts(self) -> tuple["MorphStrategy", ...]:
        """The strategies that it rests on."""
        return ()

    @property
    def needs_gradient(self) -> bool:
        """Whether it, or one that it rests on, takes gradients of the loss."""
        return self.differentiates or any(part.needs_gradient for part in self.parts())


def started(strategy: MorphStrategy, scene: Scene, loss: PairLoss, asker: str) -> tuple[Latents, Tensor]:
    """The latents that `strategy` ends with, and their images. Raises ValueError where it has none."""
    found = strategy.run(scene, loss)
    if found.latents is None:
        raise ValueError(
            f"{asker}: got start={strategy}, whose image no plain run gives, expected one with latents; take "
            "LatentBlend(), or InvertedBlend() for the latents of the pixel mean"
        )
    return found.latents, found.images
