"""Drift: the velocity of the flow with a share of the score, which takes back what noise of any strength spreads."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from .checked import CheckedFields
from .prediction import FLOW, Prediction
from .process import Process, as_time
from .wanted import NonNegative, Wanted


@dataclass(frozen=True)
class OwnNoise(CheckedFields):
    """eps = tau^2 g^2/2, tau times the noise of the process's own SDE: 0 is the flow, 1 the reverse SDE.

    Args:
        tau: a number, or a function of lambda such as `Tau(value, low, high)`, as SASolver takes it.
    """

    tau: NonNegative | Annotated[Callable[[float], float], Wanted("a function of lambda")] = 1.0

    def eps(self, process: Process, t: Tensor) -> Tensor:
        """eps at times t, float64."""
        tau = self.tau
        if callable(tau):
            lam = process.lam(t)
            tau = as_time([tau(value) for value in lam.flatten().tolist()]).reshape(lam.shape)
        return tau**2 * process.g2(t) / 2


FlowNoise = (
    NonNegative
    | Annotated[Callable[[Tensor], Tensor | float], Wanted("a function of t, a float64 tensor")]
    | OwnNoise
)


@dataclass(frozen=True)
class Drift:
    """The row (A, B) of u + side eps score; `side` is 1 where t rises along with the motion, -1 where it falls."""

    strength: FlowNoise
    side: float

    def eps(self, process: Process, t: Tensor) -> Tensor:
        """eps(t) >= 0, float64."""
        t = as_time(t)
        if isinstance(self.strength, OwnNoise):
            return self.strength.eps(process, t)
        return as_time(self.strength(t) if callable(self.strength) else self.strength) + torch.zeros_like(t)

    def __call__(self, process: Process, t: Tensor) -> tuple[Tensor, Tensor]:
        d_alpha, d_sigma = FLOW.row(process, t)
        eps = self.eps(process, t)
        # no noise, no score: it may be infinite there
        return d_alpha, d_sigma - self.side * torch.where(eps > 0, eps / process.sigma(t), eps)


def drift_of(strength: FlowNoise, side: float) -> Prediction:
    """u + side eps score as a Prediction: of a network of any kind it is one linear map of x and its output."""
    return Prediction("DRIFT", Drift(strength, side))
