"""Greedy guidance: optimise the prediction at every step."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...solvers.broadcast import per_sample
from ..loss import Loss
from .context import Context
from .guide import Guide


@dataclass(frozen=True, eq=False)
class Greedy(Guide):
    """eps* = the best of `steps` Adam steps on eps of L((x_t - sigma eps)/alpha); D' = (x_t - sigma
    eps*)/alpha. Best per sample.

    Source: Blasingame and Liu 2024 (Greedy-DiM), arXiv 2404.06025, algorithm 1 (50 steps, lr 0.01, betas 0.5
    and 0.9, 20 DDIM steps). Cost: no VJP through the network, `steps` + 1 losses a call; any plan that
    denoises. Nothing is done at alpha = 0.
    """

    loss: Loss
    steps: int = 50
    lr: float = 0.01
    betas: tuple[float, float] = (0.5, 0.9)

    def data(self, ctx: Context, data: Tensor) -> Tensor:
        if not bool((ctx.alpha > 0).all()):
            return data
        state, (first, second) = ctx.x.detach(), self.betas
        eps = (state - ctx.alpha * ctx.data) / ctx.sigma
        mean, square, best, least = torch.zeros_like(eps), torch.zeros_like(eps), eps, None
        for n in range(self.steps + 1):
            value, slope = ctx.gradient(lambda e: self.loss((state - ctx.sigma * e) / ctx.alpha), eps)
            if least is None:
                ctx.report(value)
                least = value
            better = value < least
            best = torch.where(per_sample(better, eps), eps, best)
            least = torch.where(better, value, least)
            mean, square = first * mean + (1 - first) * slope, second * square + (1 - second) * slope.square()
            bias = 1 - first ** (n + 1), 1 - second ** (n + 1)
            eps = eps - self.lr * (mean / bias[0]) / ((square / bias[1]).sqrt() + 1e-8)
        return (state - ctx.sigma * best) / ctx.alpha
