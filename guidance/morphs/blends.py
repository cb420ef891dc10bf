"""Blends: morphs that no search is made for, and the best of several."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...solvers.broadcast import per_sample
from .averaging import Averaging, PlainAverage
from .interpolation import Interpolation, Slerp
from .pair_loss import PairLoss
from .scene import Scene
from .strategy import Found, MorphStrategy


@dataclass(frozen=True)
class LatentBlend(MorphStrategy):
    """The image of the latents between the subjects': start and recovered noise by `interpolation`, conditioning on
    the line. Weight 0 is the first subject, 1 the second.

    Source: Blasingame and Liu (DiM), their variant with the start on the sphere and the code on the line.
    Cost: two encodings, one run.
    """

    weight: float = 0.5
    interpolation: Interpolation = Slerp()

    def run(self, scene: Scene, loss: PairLoss) -> Found:
        first, second = scene.latents
        latents = first.towards(second, self.weight, self.interpolation, scene.pair.cond(self.weight))
        return Found(scene.decode(latents), latents)


@dataclass(frozen=True)
class PixelBlend(MorphStrategy):
    """The subjects averaged pixel by pixel: the baseline that costs nothing. It has no latents."""

    weight: float = 0.5
    averaging: Averaging = PlainAverage()

    def run(self, scene: Scene, loss: PairLoss) -> Found:
        return Found(self.averaging(scene.pair.first, scene.pair.second, self.weight))


@dataclass(frozen=True)
class InvertedBlend(MorphStrategy):
    """The pixel blend encoded and decoded again: what of it the model can draw, and its latents to start from. As far
    as the encoder is exact it is the pixel blend, ghosts included.

    Cost: one encoding, one run.
    """

    weight: float = 0.5
    averaging: Averaging = PlainAverage()

    def run(self, scene: Scene, loss: PairLoss) -> Found:
        latents, images = scene.inverted(self.averaging, self.weight)
        return Found(images, latents)


@dataclass(frozen=True)
class BestMorph(MorphStrategy):
    """Of several strategies the one whose morph has the smallest loss, sample by sample.

    Cost: theirs, and a look at each.
    """

    strategies: tuple[MorphStrategy, ...]

    def __post_init__(self) -> None:
        known = all(isinstance(each, MorphStrategy) for each in self.strategies)
        if not self.strategies or not known:
            raise ValueError(
                f"BestMorph: got {self.strategies}, expected a tuple of strategies, at least one; pass "
                "(LatentBlend(), PixelBlend())"
            )

    @classmethod
    def of_weights(cls, blend: "LatentBlend | PixelBlend | InvertedBlend", count: int = 9) -> "BestMorph":
        """The best of `count` weights of a blend, evenly inside (0, 1): with 9, from 0.1 to 0.9."""
        if count < 1:
            raise ValueError(f"of_weights: got count={count}, expected at least 1")
        return cls(tuple(replace(blend, weight=(k + 1) / (count + 1)) for k in range(count)))

    def parts(self) -> tuple[MorphStrategy, ...]:
        return self.strategies

    def run(self, scene: Scene, loss: PairLoss) -> Found:
        best = self.strategies[0].run(scene, loss)
        least = loss_at(loss, best.images)
        for strategy in self.strategies[1:]:
            found = strategy.run(scene, loss)
            best, least = better_of(best, least, found, loss_at(loss, found.images))
        return best


def loss_at(loss: PairLoss, images: Tensor) -> Tensor:
    """The loss (B,) without a graph."""
    with torch.no_grad():
        return loss(images)


def better_of(old: Found, least: Tensor, new: Found, now: Tensor) -> tuple[Found, Tensor]:
    """Of each sample the one of smaller loss, and the losses (B,); NaN, where no face was found, is worse than any.
    Latents are kept where both have them.
    """
    better = (now < least) | (least.isnan() & ~now.isnan())
    images = torch.where(per_sample(better, new.images), new.images, old.images)
    latents = None if new.latents is None or old.latents is None else new.latents.where(better, old.latents)
    return Found(images, latents), torch.where(better, now, least)
