"""Parts of a splitting: one half of position and momentum moves while the other stands."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..checked import CheckedFields
from ..linear_map import Mixing
from ..wanted import Finite
from .method import integral
from .process import PhaseSpaceLangevin

POSITION, MOMENTUM = 0, 1


@dataclass(frozen=True)
class Part:
    """The row `half` of the reverse equation (a = `share`: 1 of the SDE whose noise and damping by A are taken apart,
    1/2 of the flow), while the clock falls from `start` by `h`:

        dx = (a gamma x - m/(2M) + a gamma score_x) du',    dm = (a nu m + x/2 + a M nu score_m) du'

    for short dy = (k y + l y' + a D_y score_y) du', with a score that was taken once, at clock `seen`.
    """

    process: PhaseSpaceLangevin
    half: int
    start: float
    h: float
    share: float
    seen: float

    @property
    def rate(self) -> float:
        """k."""
        return self.share * (self.process.gamma, self.process.nu)[self.half]

    def matrices(self, own: float, other: float, score: Tensor) -> tuple[Mixing, Mixing]:
        """y <- own y + other l y' + a D_y (score's two weights), the other half as it was: matrices on z, score."""
        state, push = torch.eye(2, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64)
        state[self.half, self.half] = own
        state[self.half, 1 - self.half] = -other * self.process.drift[self.half, 1 - self.half]
        push[self.half] = self.share * self.process.diffusion[self.half, self.half] * score
        return Mixing(state), Mixing(push)


class Parts(CheckedFields, ABC):
    """How the parts of a splitting are solved."""

    @abstractmethod
    def matrices(self, part: Part) -> tuple[Mixing, Mixing]:
        """(of z, of the score): z <- one z + the other score."""


@dataclass(frozen=True)
class EulerParts(Parts):
    """y + h (k y + l y' + a D_y score_y), as the splitting integrators are published."""

    def matrices(self, part: Part) -> tuple[Mixing, Mixing]:
        score = torch.zeros(2, dtype=torch.float64)
        score[part.half] = part.h
        return part.matrices(1 + part.h * part.rate, part.h, score)


@dataclass(frozen=True)
class ConjugateParts(Parts):
    """The solution of dy = ((k + lam) y + l y' - a D_y (L^-T eps)_y) du' from (1 - lam h) y, eps constant.

    eps = -L^T score is taken at clock `seen`; L(u), L L^T = Cov[z_t given x_0], and the linear part are exact over the
    part, as `ConjugateDDIM` has them: Euler in the coordinates e^{-(k + lam) u'} y. lam = 0 leaves nothing to Euler.

    Source: each part is a conjugate integrator (Pandey et al. 2024, arXiv 2310.07894, section 3) for its own linear
    equation. Derived here: the coordinates that the paper itself takes for its conjugate splitting were not at hand.
    """

    lam: Finite = 0.0

    def matrices(self, part: Part) -> tuple[Mixing, Mixing]:
        rate = part.rate + self.lam
        end = part.start - part.h
        lower = torch.linalg.cholesky(part.process.covariance(torch.tensor(part.seen, dtype=torch.float64)))
        weight = integral(partial(self._rate, part.process, end, rate), part.h)
        other = math.expm1(rate * part.h) / rate if rate else part.h
        own = math.exp(rate * part.h) * (1 - self.lam * part.h)
        return part.matrices(own, other, (weight @ lower.mT)[part.half])

    @staticmethod
    def _rate(process: PhaseSpaceLangevin, end: float, rate: float, v: Tensor) -> Tensor:
        """e^{rate v} L(end + v)^-T, (n, 2, 2) at v (n,)."""
        lower = torch.linalg.cholesky(process.covariance(end + v))
        return torch.exp(rate * v)[:, None, None] * torch.linalg.inv(lower).mT
