"""The stochastic improved Euler method, and the pair with Euler-Maruyama that "Gotta Go Fast" adapts its steps by."""

import math
from dataclasses import dataclass

from torch import Tensor

from ...broadcast import per_sample
from ...compiler import Builder, Method
from ...prediction import NOISE
from ...process import Process
from .embedded import Ask, EmbeddedPair, Node
from .step_control import IntegralControl


@dataclass(frozen=True)
class StochasticImprovedEuler(Method):
    """Heun on the reverse SDE dx = u dt + g dw, u = f x + (g^2/sigma) E, with one draw for both stages:

        p   = x + w u_s(x) + g_s sqrt(-w) xi,   w = t - s < 0
        x_t = x + w (u_s(x) + u_t(p))/2 + (g_s + g_t)/2 sqrt(-w) xi

    Steps that touch alpha = 0 or sigma = 0 are DDIM. Order: weak 2, strong 1. Source: Roberts 2012, arXiv 1210.0933,
    for noise that does not depend on x; Jolicoeur-Martineau et al. 2021, arXiv 2105.14080, algorithm 1, with its
    step sizes given. Cost: 2 network calls a step, 3 states, 1 noise.
    """

    order = 2
    stochastic = True

    def step(self, b: Builder, i: int) -> None:
        if not (b.finite(i) and b.finite(i + 1)):
            return b.first_order(i)
        (f, g2), (f_next, g2_next) = b.rates(i), b.rates(i + 1)
        width = b.t[i + 1] - b.t[i]
        share, pull = 1 + f * width, g2 / b.sigma[i] * width
        here = b.evaluate(f"E{i}", b.t[i], NOISE)
        point = f"p{i + 1}"
        b.combine(point, (share, "x"), (pull, here), noise=math.sqrt(g2 * -width))
        ahead = b.evaluate(f"E{i}_1", b.t[i + 1], NOISE, point)
        # the draw again, as what p has beyond its drift: xi g_t sqrt(-w) = again (p - share x - pull E)
        again = math.sqrt(g2_next / g2)
        b.combine(
            "x",
            ((1 - again * share) / 2, "x"),
            (-again * pull / 2, here),
            ((1 + again + f_next * width) / 2, point),
            (g2_next / b.sigma[i + 1] * width / 2, ahead),
        )


@dataclass(frozen=True)
class GottaGoFast(EmbeddedPair):
    """Euler-Maruyama beside `StochasticImprovedEuler`, which goes on; steps are measured in t.

    Published and shipped, the loop draws its noise anew after a rejection: steps with a large draw are the ones
    rejected, so that those which stay have too little noise, at every tolerance. Here the noise is a path, and a
    shorter attempt sees the same path.

    Source: Jolicoeur-Martineau et al. 2021, arXiv 2105.14080, algorithm 1 with its h_init, theta and r. Cost: 2
    network calls an attempt, 1 after a rejection.
    """

    method = StochasticImprovedEuler()
    want = NOISE
    calls = 2
    order = 2
    control = IntegralControl(0.9, exponent=0.9, low=0.0, high=math.inf)
    first = 0.01
    stochastic = True

    def attempt(
        self, ask: Ask, x: Tensor, here: Tensor, start: Node, end: Node, noise: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        assert noise is not None
        width = end.t - start.t

        def stepped(node: Node, at: Tensor, eps: Tensor) -> Tensor:
            f, g2 = node.process.f(node.t), node.process.g2(node.t)
            terms = ((f * width, at), (g2 / node.sigma * width, eps), ((g2 * -width).sqrt(), noise))
            return sum((per_sample(c.to(x), x) * value for c, value in terms), x)

        low = stepped(start, x, here)
        return low, (low + stepped(end, low, ask(low, end.t, NOISE))) / 2

    def position(self, process: Process, t: Tensor) -> Tensor:
        return t

    def time(self, process: Process, position: Tensor) -> Tensor:
        return position
