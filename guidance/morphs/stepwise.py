"""Morphs made step by step by the gradient of the loss: greedily, or by looking ahead."""

from dataclasses import dataclass

from ...adjoint import Auto, Gradient
from ...solvers.wanted import Positive
from ..guides.greedy import Greedy
from ..guides.guide import Guide
from ..guides.lookahead import Lookahead, check_ahead
from ..guides.steering import Steered, steer
from ..guides.step_size import ScoreRatio, StepSize
from .blends import LatentBlend
from .latent import Latents
from .pair_loss import PairLoss
from .scene import Scene
from .strategy import Found, MorphStrategy, started


@dataclass(frozen=True)
class GreedyMorph(MorphStrategy):
    """Greedy-DiM: at every network call the predicted noise is optimised for the loss of the image that it predicts.

    Args:
        rounds, lr, betas: of Adam on the prediction; those of `Greedy`.

    Source: Blasingame and Liu 2024, arXiv 2404.06025, algorithm 1. Cost: one run without a VJP; rounds + 1 looks a
    call.
    """

    start: MorphStrategy = LatentBlend()
    rounds: int = 50
    lr: Positive = 0.01
    betas: tuple[float, float] = (0.5, 0.9)
    differentiates = True

    def __post_init__(self) -> None:
        decays = (
            isinstance(self.betas, tuple) and len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas)
        )
        if self.rounds < 0 or not decays:
            raise ValueError(
                f"GreedyMorph: got rounds={self.rounds}, betas={self.betas}, expected at least 0 and two numbers in "
                "[0, 1); write rounds=50, betas=(0.5, 0.9)"
            )

    def parts(self) -> tuple[MorphStrategy, ...]:
        return (self.start,)

    def run(self, scene: Scene, loss: PairLoss) -> Found:
        latents, _ = started(self.start, scene, loss, "GreedyMorph")
        return Found(steered(scene, latents, Greedy(loss, self.rounds, self.lr, self.betas)).sample)


@dataclass(frozen=True)
class LookaheadMorph(MorphStrategy):
    """Every step is followed by one against the gradient of the loss where `ahead` network calls lead.

    Args:
        ahead: 1 is one prediction, as DPS; the plan's number of steps is the whole rest of the run.
        policy: how far; by default a share of the noise, whatever the loss's scale is.
        gradient: the strategy that differentiates the run of `ahead` calls.

    Cost: one run of `ahead` calls, VJPs and replays a step (`Lookahead`); one look a step.
    """

    start: MorphStrategy = LatentBlend()
    ahead: int = 4
    policy: StepSize = ScoreRatio(0.2)
    gradient: Gradient = Auto()
    differentiates = True

    def __post_init__(self) -> None:
        if self.ahead < 0:
            raise ValueError(
                f"LookaheadMorph: got ahead={self.ahead}, expected at least 0; 1 is one prediction, as DPS"
            )

    def parts(self) -> tuple[MorphStrategy, ...]:
        return (self.start,)

    def run(self, scene: Scene, loss: PairLoss) -> Found:
        check_ahead(self.gradient, scene.plan, self.ahead)
        latents, _ = started(self.start, scene, loss, "LookaheadMorph")
        guide = Lookahead(loss, self.ahead, self.policy, gradient=self.gradient)
        return Found(steered(scene, latents, guide).sample)


def steered(scene: Scene, latents: Latents, guide: Guide) -> Steered:
    """The run from `latents` under `guide`, counted."""
    run = steer(
        scene.model,
        scene.plan,
        latents.state,
        guide,
        cond=latents.cond,
        noise=scene.drawn(latents),
        progress=scene.progress,
    )
    scene.spent.nfe += run.nfe
    scene.spent.vjps += run.vjps
    return run
