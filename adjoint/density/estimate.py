"""LogProb: log densities with what is known of their error, and Student's interval."""

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from ...solvers.checked import checked
from ...solvers.notebook import Shown
from ...solvers.packing import State
from ...solvers.wanted import Count, Wanted

Confidence = Annotated[float, Wanted("a number between 0 and 1; pass 0.95", lambda value: 0 < value < 1)]


@dataclass(frozen=True, eq=False, repr=False)
class LogProb(Shown):
    """Log densities of B samples in nats, and what they cost.

    Attributes:
        lanes: (B, R), an unbiased estimate of the log density of the solved flow from each probe.
        exact: whether that is the value itself.
        end: the states at the plan's last time, the noise that the samples are made of.
        nfe, vjps: network calls and vector-Jacobian products of the run.
    """

    lanes: Tensor
    exact: bool
    end: State
    nfe: int
    vjps: int

    @property
    def value(self) -> Tensor:
        """log p(x), (B,); gradients reach all that went in."""
        return self.lanes.mean(1)

    @property
    def error(self) -> Tensor:
        """The standard error that the probes leave, (B,): 0 of an exact divergence, inf of a single probe. The step
        size's is no part of it: compare two plans.
        """
        count, lanes = self.lanes.shape[1], self.lanes.detach()
        if self.exact or count == 1:
            return torch.full_like(lanes[:, 0], 0.0 if self.exact else math.inf)
        return lanes.std(1) / count**0.5

    def interval(self, level: Confidence = 0.95) -> tuple[Tensor, Tensor]:
        """(low, high), (B,) each: value -+ t error, t the two-sided quantile of Student's law of R - 1 degrees, for
        what an exact divergence would give.

        It covers as stated where lanes are close to normal; docs/density.md says from how many probes on.
        """
        if self.exact or self.lanes.shape[1] == 1:
            reach = self.error
        else:
            reach = student(level, self.lanes.shape[1] - 1) * self.error
        value = self.value.detach()
        return value - reach, value + reach


@checked
def student(level: Confidence, degrees: Count) -> float:
    """The t with P(|T| < t) = level for Student's T.

    With T = sqrt(n) tan(a) the angle a has density cos(a)^(n-1) / c, c = sqrt(pi) Gamma(n/2) / Gamma((n+1)/2) on
    (-pi/2, pi/2): Gauss-Legendre and bisection.
    """
    nodes, weights = np.polynomial.legendre.leggauss(200)
    whole = math.sqrt(math.pi) * math.exp(math.lgamma(degrees / 2) - math.lgamma((degrees + 1) / 2))
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        inside = middle * float(weights @ np.cos(middle * (nodes + 1) / 2) ** (degrees - 1))
        low, high = (middle, high) if inside < level * whole else (low, middle)
    return math.sqrt(degrees) * math.tan(low)
