"""Morphs made step by step: greedily, by looking ahead, or by a search among blends."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...solvers.broadcast import per_sample
from ..guides.context import Context
from ..guides.greedy import Greedy
from ..guides.guide import Guide
from ..guides.lookahead import Lookahead
from ..guides.steering import Steered, steer
from ..guides.step_size import ScoreRatio, StepSize
from ..loss import Loss
from .blends import LatentBlend
from .latent import Latents
from .pair_loss import PairLoss
from .scene import Scene
from .strategy import Found, MorphStrategy, started


def steered(scene: Scene, latents: Latents, guide: Guide) -> Steered:
    """The run from `latents` under `guide`, counted."""
    assert isinstance(latents.start, Tensor)
    run = steer(
        scene.model,
        scene.plan,
        latents.start,
        guide,
        cond=latents.cond,
        noise=scene.drawn(latents),
        progress=scene.progress,
    )
    scene.spent.nfe += run.nfe
    scene.spent.vjps += run.vjps
    return run


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
    lr: float = 0.01
    betas: tuple[float, float] = (0.5, 0.9)
    differentiates = True

    def parts(self) -> tuple[MorphStrategy, ...]:
        return (self.start,)

    def run(self, scene: Scene, loss: PairLoss) -> Found:
        latents = started(self.start, scene, loss, "GreedyMorph")
        return Found(steered(scene, latents, Greedy(loss, self.rounds, self.lr, self.betas)).sample)


@dataclass(frozen=True)
class LookaheadMorph(MorphStrategy):
    """Every step is followed by one against the gradient of the loss where `ahead` network calls lead.

    Args:
        ahead: 1 is one prediction, as DPS; the plan's number of steps is the whole rest of the run.
        policy: how far; by default a share of the noise, whatever the loss's scale is.

    Cost: one run of `ahead` calls, VJPs and replays a step (`Lookahead`); one look a step.
    """

    start: MorphStrategy = LatentBlend()
    ahead: int = 4
    policy: StepSize = ScoreRatio(0.2)
    differentiates = True

    def parts(self) -> tuple[MorphStrategy, ...]:
        return (self.start,)

    def run(self, scene: Scene, loss: PairLoss) -> Found:
        latents = started(self.start, scene, loss, "LookaheadMorph")
        return Found(steered(scene, latents, Lookahead(loss, self.ahead, self.policy)).sample)


@dataclass(frozen=True)
class GreedySearch(MorphStrategy):
    """Greedy-DiM's search: at every call the prediction of x_0 is the best of blends of what the model predicts on its
    way to either subject, and of its own.

    Args:
        weights: how many blends, evenly from the first subject's (0) to the second's (1); 21 as published.

    No gradient is taken: any recogniser will do. Source: Blasingame and Liu 2024, arXiv 2404.06025, section 3, with
    predictions of x_0 where the paper blends those of the noise. Cost: three runs; weights + 1 looks a call.
    """

    start: MorphStrategy = LatentBlend()
    weights: int = 21

    def __post_init__(self) -> None:
        if self.weights < 2:
            raise ValueError(f"GreedySearch: got weights={self.weights}, expected at least 2, both subjects'")

    def parts(self) -> tuple[MorphStrategy, ...]:
        return (self.start,)

    def run(self, scene: Scene, loss: PairLoss) -> Found:
        latents = started(self.start, scene, loss, "GreedySearch")
        ways = []
        for subject in scene.latents:
            recorder = Recorder()
            ways.append(tuple(steered(scene, subject, recorder).memory(recorder)["data"]))
        guide = BestPrediction(loss, ways[0], ways[1], self.weights)
        return Found(steered(scene, latents, guide).sample)


@dataclass(frozen=True, eq=False)
class Recorder(Guide):
    """Changes nothing, and remembers every prediction of x_0."""

    def data(self, ctx: Context, data: Tensor) -> Tensor:
        ctx.memory(self).setdefault("data", []).append(data)
        return data


@dataclass(frozen=True, eq=False)
class BestPrediction(Guide):
    """D' = the best, sample by sample, of D and of the blends of two other runs' predictions at the same call."""

    loss: Loss
    first: tuple[Tensor, ...]
    second: tuple[Tensor, ...]
    weights: int

    def data(self, ctx: Context, data: Tensor) -> Tensor:
        memory = ctx.memory(self)
        call = memory["call"] = memory.get("call", -1) + 1
        best, least = data, self.loss(data)
        for weight in torch.linspace(0, 1, self.weights).tolist():
            blend = torch.lerp(self.first[call], self.second[call], weight)
            now = self.loss(blend)
            better = ~(now >= least)  # whatever there is, where no face was found before
            best, least = torch.where(per_sample(better, blend), blend, best), torch.where(better, now, least)
        ctx.report(least)
        return best
