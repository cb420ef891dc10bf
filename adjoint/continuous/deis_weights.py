"""What the vector-Jacobian products of an exponential adjoint count for in each of its steps."""

import math
from array import array
from collections.abc import Iterable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from ...solvers import Process
from ...solvers.methods.weights import data_weights
from .regrid import Entering


class DEISWeights:
    """With p = alpha a_x, the adjoint of y = x/alpha, and V = alpha (dE/dx)^T p,

        p(top) = p(bottom) - f rho_top sum_j w_j V_j,    w_j = INT_0^1 (-h) e^{h(1-th)} L_j(th) dth

    over an interval from its bottom, where the backward pass comes from, to its top, h = lambda_top - lambda_bottom,
    L_j through V at the bottoms of the last `order` intervals in lambda. Two take the published weights, which
    put half of w_0 in place of w_1. An interval with an infinite end is taken at first order.

    Args:
        tops, bottoms: times of the intervals, in the run's order.
        factors: f = 1 + tau^2 of each: 1 for the ODE, 2 for the reverse SDE.
        cuts: intervals at whose top the state jumps: those before it know nothing of them.

    Attributes:
        start: of orders 3 and 4, how many intervals a backward pass begins with that are integrated through V at all
            their bottoms: `DEISStart`. A first step of first order would leave second order of the whole.
    """

    def __init__(
        self,
        process: Process,
        tops: Sequence[float],
        bottoms: Sequence[float],
        order: int,
        factors: Sequence[float],
        cuts: frozenset[int] = frozenset(),
    ) -> None:
        high, low = (torch.tensor(times, dtype=torch.float64) for times in (tops, bottoms))
        self.alpha, self.above, self.below = (
            array("d", found.tolist()) for found in (process.alpha(low), process.lam(high), process.lam(low))
        )
        self.order, self.factors, self.cuts = order, factors, cuts
        self.of = lru_cache(maxsize=8)(self._of)
        whole = order > 2 and not cuts and math.isfinite(self.below[-1])
        self.start = min(order - 1, len(self.below)) if whole else 0

    def through(self, k: int, count: int) -> list[float]:
        """Over interval k the weights of V at the bottoms of the last `count` intervals, last first."""
        h, last = self.above[k] - self.below[k], len(self.below) - 1
        nodes = [(self.below[last - j] - self.below[k]) / h for j in range(count)]
        return [-self.factors[k] * math.exp(-self.above[k]) * w for w in data_weights(-h, nodes)]

    def _of(self, k: int) -> list[float]:
        """Weights of V at the bottoms of intervals k, k + 1, ..."""
        h, factor = self.above[k] - self.below[k], self.factors[k]
        rho = math.exp(-self.above[k])
        if h == math.inf:  # up to sigma = 0: all of rho at the bottom
            return [factor * math.exp(-self.below[k])]
        reach = self._reach(k) if math.isfinite(h) else 1
        if reach == 1:
            return [factor * rho * math.expm1(h)]
        nodes = [(self.below[k + j] - self.below[k]) / h for j in range(reach)]
        if reach == 2 == self.order:
            scale = factor * rho * math.expm1(h)
            return [scale * (1 - 0.5 / nodes[1]), scale * 0.5 / nodes[1]]
        return [-factor * rho * w for w in data_weights(-h, nodes)]

    def _reach(self, k: int) -> int:
        reach = 1
        while (
            reach < min(self.order, len(self.below) - k)
            and k + reach not in self.cuts
            and math.isfinite(self.below[k + reach])
        ):
            reach += 1
        return reach

    def entering(self, k: int) -> Entering:
        """The intervals that V at the bottom of interval k enters, with its weights there."""
        first = len(self.below) - self.start
        pairs = ((i, self.of(i)) for i in range(min(k, first - 1), max(k - self.order, -1), -1))
        found = [(i, weights[k - i]) for i, weights in pairs if k - i < len(weights)]
        if k >= first:
            place = len(self.below) - 1 - k
            begun = [k, *(i for i in range(first, len(self.below)) if i != k)]  # its own comes first
            found = [(i, self.through(i, self.start)[place]) for i in begun] + found
        return found


def weighted(weights: Sequence[float], recent: Iterable[Tensor]) -> Tensor:
    """The sum of as many of the `recent` products as there are weights."""
    first, *rest = (w * v for w, v in zip(weights, recent, strict=False))
    return sum(rest, first)


class DEISStart:
    """The first steps of a backward pass of order 3 or 4, each from the sample again through all that is known of V.

    V at the s-th node is taken where polynomials through s values lead; with them, and for order 4 with V at the
    second node taken twice, the start is as good as the steps that follow it.
    """

    def __init__(self, weights: DEISWeights, p: Tensor) -> None:
        self.weights, self.p, self.found = weights, p, list[Tensor]()

    def running(self) -> bool:
        """Whether the next interval is one of the start's."""
        return len(self.found) < self.weights.start

    def twice(self) -> bool:
        """Whether V, the last one that `took` was told, is to be taken again where `p_again` leads."""
        return self.weights.start > 2 and len(self.found) == 1

    def next(self, v: Tensor, intervals: int = 0) -> Tensor:
        """p at the top of the interval whose V at the bottom is `v`; with `intervals`, of that many."""
        values = [*self.found, v]
        last = len(self.weights.below) - 1
        total = self.p
        for k in range(last, last - (intervals or len(values)), -1):
            total = total + weighted(self.weights.through(k, len(values)), values)
        return total

    def took(self, v: Tensor) -> None:
        self.found.append(v)

    def jumped(self, by: Tensor) -> None:
        """The loss sees a state on the way."""
        self.p = self.p + by
