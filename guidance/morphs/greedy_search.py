"""Greedy search: at every call the best of blends of two predictions, without a gradient."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...solvers.broadcast import per_sample
from ..guides.context import Context
from ..guides.guide import Guide
from ..loss import Loss
from .blends import LatentBlend
from .pair_loss import PairLoss
from .scene import Scene
from .stepwise import steered
from .strategy import Found, MorphStrategy, started


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
        latents, _ = started(self.start, scene, loss, "GreedySearch")
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
