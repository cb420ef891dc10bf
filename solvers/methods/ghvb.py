"""Generalised heavy ball: Adams-Bashforth in rho whose highest difference is a moving average."""

import math
from dataclasses import dataclass
from typing import Annotated

from ..compiler import Builder
from ..wanted import Wanted
from .adams import NoiseAdams, adams_step, rho_nodes
from .weights import plain_weights

_UpToFour = Annotated[float, Wanted("a number in (0, 4], as 1.8 between order 1 and 2", lambda r: 0 < r <= 4)]


@dataclass(frozen=True)
class GHVB(NoiseAdams):
    """Between Adams-Bashforth of k - 1 and of k nodes in rho, r = k - 1 + beta with 0 < beta <= 1:

        y_t = y_s + sum_{j < k-1} a_j E_{-j} + g d,    d <- (1 - beta) d_before + beta E[rho_s, ... rho_{-(k-1)}]

    a are the weights of k - 1 nodes, E[...] the k-th of the divided differences of E, and g the integral of its
    Newton polynomial: with d = E[...] this is Adams-Bashforth of k nodes, `LMS(k)`, at beta = 1; as beta -> 0 the
    difference is forgotten, which leaves `LMS(k - 1)`. For k = 1 it is the heavy ball, v <- (1 - beta) v + beta E,
    y_t = y_s + (rho_t - rho_s) v.

    The published form averages E first and differences the average, v. At steps equal in rho the two are one:
    k = 2 is ((2 + beta) v - (2 - beta) v_before)/(2 beta). Ours differs in two ways: weights are those of the steps
    as they are, and the average begins with the first difference that there is, not with v = E; else its memory of
    the start costs h^2 once, and every r > 2 is of second order. The order is k, with an error constant that grows
    as 1/beta: at few steps it looks like r. `starter` begins with rho-Runge-Kutta steps of order k.

    Args:
        r: the strength. Small r damps what diverges at few steps.

    Source: Wizadwongsa et al. 2023, arXiv 2307.11118; the form above is derived here. Cost: 1 network call a step,
    k + 2 states.
    """

    r: _UpToFour = 1.8
    starter: bool = False

    @property
    def order(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return math.ceil(self.r)

    def advance(self, b: Builder, i: int, reach: int) -> None:
        width, nodes = rho_nodes(b, i, reach)
        whole = [width * w for w in plain_weights(nodes)]
        if reach < self.order:
            return adams_step(b, i, whole)
        # the divided difference over the nodes: sum_j E_{-j} / prod_{k != j} (node_j - node_k), in units of width
        rho = [width * node for node in nodes]
        divided = [1 / math.prod(p - q for q in rho if q != p) for p in rho]
        beta, terms = self.r - (self.order - 1), [(w, f"E{i - j}") for j, w in enumerate(divided)]
        before = f"d{i - 1}"
        if before in b.evaluated:
            terms = [(1 - beta, before), *((beta * w, name) for w, name in terms)]
        b.combine(f"d{i}", *terms)
        b.evaluated.add(f"d{i}")
        # the oldest node enters the k-node weights by the Newton polynomial's integral alone
        gain = whole[-1] / divided[-1]
        lower = [w - gain * d for w, d in zip(whole, divided, strict=True)][:-1]
        adams_step(b, i, lower, ((gain, f"d{i}"),))
