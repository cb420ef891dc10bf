"""Scene: what the strategies of one morph share but for the loss: model, plan, pair, and what has been spent."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from ...adjoint import sample
from ...adjoint.arguments import noise_for
from ...solvers import Model, Noise, Plan
from .averaging import Averaging
from .encoders import Encoder
from .latent import Latents
from .pair import Pair


@dataclass(eq=False)
class Spent:
    """What one pair has cost so far: network evaluations, VJPs of the network, and images that each recogniser has
    been shown.
    """

    nfe: int = 0
    vjps: int = 0
    looks: int = 0


@dataclass(frozen=True, eq=False)
class Scene:
    """A pair before a model and a plan. Each of a batch's pairs is by itself; costs are those of one of them."""

    model: Model
    plan: Plan
    pair: Pair
    encoder: Encoder
    noise: Noise | None = None
    progress: bool = False
    spent: Spent = field(default_factory=Spent)
    known: dict[tuple[Averaging, float], tuple[Latents, Tensor]] = field(default_factory=dict)

    @cached_property
    def latents(self) -> tuple[Latents, Latents]:
        """The latents of both subjects."""
        pair = self.pair
        return self.encode(pair.first, pair.first_cond), self.encode(pair.second, pair.second_cond)

    def inverted(self, averaging: Averaging, weight: float) -> tuple[Latents, Tensor]:
        """The latents of an average of the subjects, and the image they give: the average as the model would draw it.
        Made once.
        """
        if (averaging, weight) not in self.known:
            average = averaging(self.pair.first, self.pair.second, weight)
            latents = self.encode(average, self.pair.cond(weight))
            self.known[averaging, weight] = latents, self.decode(latents)
        return self.known[averaging, weight]

    def encode(self, images: Tensor, cond: Any) -> Latents:
        """The latents of `images` (B, ...)."""
        latents, nfe = self.encoder.encode(self.model, self.plan, images, cond)
        self.spent.nfe += nfe
        return latents

    def decode(self, latents: Latents) -> Tensor:
        """The images (B, ...) that `latents` give, without a graph."""
        self.spent.nfe += self.plan.nfe
        return sample(
            self.model, self.plan, latents.start, cond=latents.cond, noise=self.drawn(latents), gradient=None
        )

    def drawn(self, latents: Latents) -> Noise | Tensor | None:
        """The noise of a run from `latents`: theirs, else the caller's source."""
        return noise_for(self.plan, self.noise if latents.noise is None else latents.noise)
