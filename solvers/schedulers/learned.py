"""Learned variances: the network returns its prediction and, behind it, how much noise the step adds.

The state has twice the channels, and what stands in the second half counts for nothing: so a network's whole answer
has the state's shape.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..calling import Calling, prediction_in


@dataclass(frozen=True)
class LearnedNoise:
    """x + s xi. With v the second half of the network's answer, s^2 = v, or between two bounds,

        log s^2 = low + (v + 1)/2 (high - low)

    (Nichol and Dhariwal 2021, arXiv 2102.09672, eq. 15): `bounds` = (low, high), log of the posterior's variance and of
    beta.
    """

    bounds: tuple[float, float] | None

    def __call__(self, x: Tensor, answer: Tensor, xi: Tensor) -> Tensor:
        half = x.shape[1] // 2
        v = answer[:, half:]
        if self.bounds is None:
            std = v.sqrt()
        else:
            low, high = self.bounds
            std = (low / 2 + (v + 1) * ((high - low) / 4)).exp()
        return widened(x[:, :half] + std * xi[:, :half])


@dataclass(frozen=True)
class OnHalf:
    """`fn` of the first half of the channels."""

    fn: Callable[[Tensor], Tensor]

    def __call__(self, x: Tensor) -> Tensor:
        return widened(self.fn(x[:, : x.shape[1] // 2]))


@dataclass(frozen=True)
class HalfCall:
    """Calls the network with the first half of the channels; its answer has all of them."""

    inner: Calling

    def __call__(self, network: Callable[..., Any], x: Any, t: Tensor, cond: Any) -> Tensor:
        return prediction_in(self.inner(network, x[:, : x.shape[1] // 2], t, cond))


class Variances:
    """Stands in for the `_get_variance` of a scheduler that is being played, which adds noise of size 1 then."""

    def __init__(self, s: Any) -> None:
        self.true, self.kind, self.met = s._get_variance, s.variance_type, False
        self.bounds: tuple[float, float] | None = None
        s._get_variance, s.variance_type = self, "fixed_small_log"

    def __call__(self, t: Any, predicted_variance: Any = None, **options: Any) -> float:
        self.met = True
        if self.kind == "learned_range":
            low, high = (
                float(self.true(t, predicted_variance=torch.tensor(v), **options)) for v in (-1.0, 1.0)
            )
            self.bounds = (low, high)
        return 1.0

    def taken(self) -> tuple[float, float] | None:
        """The bounds of the step that asked."""
        self.met = False
        return self.bounds


def widened(x: Tensor) -> Tensor:
    """x with as many channels of zeros behind it."""
    return torch.cat([x, torch.zeros_like(x)], 1)
