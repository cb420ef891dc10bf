"""The shares of levels that make variance times work least, from the moments of their gradients.

Work of one sample times variance of one sample's estimate is what an estimate of given accuracy costs: W samples' worth
of work buys the variance V/W.
"""

import math
from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from .allocation import Allocation, CoupledSum, SingleTerm
from .draws import LevelDraws, StratifiedDraws

_Fitted = tuple[Allocation, float]  # with its variance times work


def best(
    draws: LevelDraws, second: Tensor, cov: Tensor, costs: Sequence[float]
) -> tuple[tuple[int, ...], Allocation, float]:
    """The levels to keep, the finest among them, how to spread samples over these, and the variance times work of that.

    Args:
        second, cov: (K, K) E[f_k . f_l] and Cov[f_k . f_l], summed over the gradient's entries.
        costs: (K,) of one sample on each level.
    """
    # fixed counts leave the variance of differences; independent ones their second moment, but for |E f_L|^2
    moment, mean = (
        (cov, 0.0) if isinstance(draws, StratifiedDraws) else (second, float((second - cov)[-1, -1]))
    )
    finest = len(costs) - 1
    found: list[tuple[tuple[int, ...], Allocation, float]] = []
    for count in range(finest + 1):
        for coarse in combinations(range(finest), count):
            kept = (*coarse, finest)
            at = torch.tensor(kept)
            for fit in (_coupled, _single) if count else (_coupled,):
                fitted = fit(moment[at][:, at], mean, [costs[k] for k in kept])
                if fitted is not None:
                    found.append((kept, *fitted))
    return min(found, key=lambda each: each[2])


def _coupled(moment: Tensor, mean: float, costs: Sequence[float]) -> _Fitted | None:
    """Var = sum_l a_l / P_l, a_l = |f_{l-1} - f_L|^2 - |f_l - f_L|^2 by `moment`, less `mean` of a_0 since P_0 = 1.

    (sum a_l / P_l) (sum c_l P_l) is at least (sum sqrt(a_l c_l))^2, at P_l in proportion to sqrt(a_l / c_l). None where
    these rise: without one of the levels it is less.
    """
    own = moment.diagonal()
    off = (own + own[-1] - 2 * moment[:, -1]).tolist()
    whole = max(float(own[-1]) - mean, 0.0)
    if len(costs) == 1:
        return CoupledSum((1.0,)), whole * costs[0]
    gains = [before - after for before, after in zip([whole, *off], off, strict=False)]
    if min(gains) <= 0:
        return None
    shares = [math.sqrt(a / c * costs[0] / gains[0]) for a, c in zip(gains, costs, strict=True)]
    if any(p < q for p, q in zip(shares, shares[1:], strict=False)):
        return None
    return CoupledSum((1.0, *shares[1:])), sum(
        math.sqrt(a * c) for a, c in zip(gains, costs, strict=True)
    ) ** 2


def _single(moment: Tensor, mean: float, costs: Sequence[float]) -> _Fitted | None:
    """Var = sum_l |f_l - f_{l-1}|^2 / p_l by `moment`, less `mean`; a difference costs both its runs. p_l in proportion
    to sqrt(moment / cost): the best but for `mean`.
    """
    squares = [float(moment[0, 0]), *steps_between(moment)]
    if min(squares) <= 0:
        return None
    both = [c + before for c, before in zip(costs, [0.0, *costs], strict=False)]
    chances = [math.sqrt(m / c) for m, c in zip(squares, both, strict=True)]
    chances = [p / sum(chances) for p in chances]
    variance = sum(m / p for m, p in zip(squares, chances, strict=True)) - mean
    return SingleTerm(tuple(chances)), variance * sum(p * c for p, c in zip(chances, both, strict=True))


def steps_between(gram: Tensor) -> list[float]:
    """Of f_l - f_{l-1} for l = 1, ..., given products of all f_k and f_l."""
    own = gram.diagonal()
    return (own[1:] + own[:-1] - 2 * gram.diagonal(1)).tolist()
