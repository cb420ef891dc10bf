"""Particle search: of several children of every step the best goes on."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...solvers import Addressed
from ..particles.soft_value import svdd
from .blends import LatentBlend
from .pair_loss import PairLoss
from .scene import Scene
from .strategy import Found, MorphStrategy, started


@dataclass(frozen=True)
class ParticleSearch(MorphStrategy):
    """SVDD along a stochastic plan: after every `every`-th step the best of `children` goes on, by the loss of what the
    model predicts from it.

    Args:
        noise: what the children are drawn with.

    Cost: children runs, and a call and a look more a child and step (`svdd`).
    """

    start: MorphStrategy = LatentBlend()
    children: int = 8
    every: int = 1
    noise: Addressed = Addressed(0, stream=3)

    def parts(self) -> tuple[MorphStrategy, ...]:
        return (self.start,)

    def run(self, scene: Scene, loss: PairLoss) -> Found:
        latents, _ = started(self.start, scene, loss, "ParticleSearch")
        if not scene.plan.slots:
            raise ValueError(
                f"ParticleSearch: got {scene.plan.name}, which draws no noise, expected a stochastic plan: its "
                "children would be one another; take DDIM(1.0), or Evolution()"
            )
        run = svdd(
            scene.model,
            scene.plan,
            latents.state,
            lambda images, context: _reward(loss.given(images, context)),
            self.noise,
            children=self.children,
            every=self.every,
            cond=latents.cond,
            context=loss.context,
            progress=scene.progress,
        )
        scene.spent.nfe += self.children * run.nfe
        return Found(run.sample)


def _reward(loss: Tensor) -> Tensor:
    """-loss; an image that could not be read never goes on while another could."""
    return torch.where(loss.isnan(), -torch.inf, -loss)
