"""Evolution of the start: a search that takes no gradient at all."""

import math
from dataclasses import dataclass

import torch

from ...solvers import Addressed
from ...solvers.broadcast import per_sample
from ...solvers.progress import progress_bar
from ..latents.found import Stop
from .blends import LatentBlend, better_of, loss_at
from .latent import Latents
from .pair_loss import PairLoss
from .scene import Scene
from .strategy import Found, MorphStrategy, started


@dataclass(frozen=True)
class Evolution(MorphStrategy):
    """An evolution strategy on the start x (B, ...), each sample with a mean m, a path p and a width s of its own:

        y_k ~ N(0, I), k = 1 .. population;    of the better half, best first, w_i ~ log((population + 1)/2) - log i
        m <- m + s sum_i w_i y_i,              mu = 1 / sum_i w_i^2
        p <- (1 - c) p + sqrt(c (2 - c) mu) sum_i w_i y_i,    c = (mu + 2)/(d + mu + 5)
        s <- s exp(c/D (|p| / E|N(0, I)| - 1)),               D = 1 + c + 2 max(0, sqrt((mu - 1)/(d + 1)) - 1)

    in d dimensions: cumulative step-size adaptation without a covariance, which d = 625 leaves no time to learn. The
    best point seen is kept.

    Args:
        generations, population: how many, and of how many each.  width: s at first.
        noise: what y is drawn with.

    Source: Hansen and Ostermeier 2001, Evolutionary Computation 9(2); constants of Hansen 2016, arXiv 1604.00772.
    Cost: generations x population runs and looks.
    """

    start: MorphStrategy = LatentBlend()
    generations: int = 50
    population: int = 8
    width: float = 0.1
    noise: Addressed = Addressed(0, stream=2)

    def __post_init__(self) -> None:
        if self.generations < 1 or self.population < 2 or not self.width > 0:
            raise ValueError(
                f"Evolution: got generations={self.generations}, population={self.population}, width={self.width}, "
                "expected at least 1, at least 2 and above 0"
            )

    def parts(self) -> tuple[MorphStrategy, ...]:
        return (self.start,)

    def run(self, scene: Scene, loss: PairLoss) -> Found:
        begun, images = started(self.start, scene, loss, "Evolution")
        mean = begun.state
        count, d = self.population, mean[0].numel()
        ranks = torch.arange(1, count // 2 + 1, dtype=mean.dtype, device=mean.device)
        w = math.log((count + 1) / 2) - ranks.log()
        w = w / w.sum()
        mu = float(1 / w.square().sum())
        c = (mu + 2) / (d + mu + 5)
        damping = 1 + c + 2 * max(0.0, math.sqrt((mu - 1) / (d + 1)) - 1)
        length = math.sqrt(d) * (1 - 1 / (4 * d) + 1 / (21 * d * d))  # E|N(0, I)|
        path, width = torch.zeros_like(mean), mean.new_full((len(mean),), self.width)
        best = Found(images, begun)
        least = loss_at(loss, best.images)
        stop = Stop.STEPS
        try:
            for generation in progress_bar(range(self.generations), disable=not scene.progress):
                draws = [self.noise(generation * count + k, mean) for k in range(count)]
                losses = []
                for draw in draws:
                    at = Latents(mean + per_sample(width, mean) * draw, begun.noise, begun.cond)
                    found = Found(scene.decode(at), at)
                    losses.append(loss_at(loss, found.images))
                    best, least = better_of(best, least, found, losses[-1])
                order = (
                    torch.stack(losses).nan_to_num(nan=torch.inf).argsort(0)[: len(w)]
                )  # (count / 2, B), best first
                steps = torch.stack(draws)[order, torch.arange(len(mean), device=mean.device)]
                step = torch.tensordot(w, steps, dims=1)
                mean = mean + per_sample(width, mean) * step
                path = (1 - c) * path + math.sqrt(c * (2 - c) * mu) * step
                width = width * (c / damping * (path.flatten(1).norm(dim=1) / length - 1)).exp()
        except KeyboardInterrupt:
            stop = Stop.INTERRUPT
        return Found(best.images, best.latents, stop)
