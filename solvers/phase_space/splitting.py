"""Splitting integrators of position and momentum, and Euler-Maruyama beside them."""

from dataclasses import dataclass
from typing import Annotated

import torch

from ..compiler import Builder
from ..linear_map import Mixing
from ..methods.mrs import Reverse
from ..wanted import Wanted
from .method import PhaseMethod, score, spread
from .process import PhaseSpaceLangevin


@dataclass(frozen=True)
class PhaseEulerMaruyama(PhaseMethod):
    """z_t = z + k (-A z + a D score) + sqrt(k D) xi,  k = beta(s) (s - t): Euler on the reverse SDE (a = 1), or on the
    flow (a = 1/2, no noise).

    Source: arXiv 2112.07068; 2303.01748. Order 1 (with noise: weak). Cost: 1 network call a step, 2 states.
    """

    reverse: Reverse = Reverse.SDE
    order = 1

    @property
    def stochastic(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.reverse is Reverse.SDE

    def move(self, b: Builder, i: int, process: PhaseSpaceLangevin, h: float) -> None:
        k = float(process.beta(b.t[i])) * (b.t[i] - b.t[i + 1])
        share = 1.0 if self.stochastic else 0.5
        b.combine(
            "x",
            (Mixing(torch.eye(2, dtype=torch.float64) - k * process.drift), "x"),
            (Mixing(share * k * process.diffusion), score(b, i, "", b.t[i])),
            noise=Mixing((k * process.diffusion).sqrt()) if self.stochastic else 0.0,
        )


@dataclass(frozen=True)
class SSCS(PhaseMethod):
    """Symmetric splitting: half a step of the linear part and its noise, exactly; a step of the rest; the other half.

        linear  dz = K z du' + sqrt((2a - 1) D) dw,  K = -A - a D S^-1
        rest    dz = a D (score + S^-1 z) du'

    K comes to rest in N(0, S) (SDE) or turns without damping (ODE); the rest is 0 once z is at rest. Order 1 takes the
    rest by Euler with the score of the step's first time, as published; order 2 by the midpoint rule at the time
    between (derived here: Strang's splitting has second order if each part does).

    Order: `order`, with noise in the weak sense. Source: Dockhorn et al. 2022, arXiv 2112.07068, section 4; S^-1 on the
    position too, as PSLD needs it. Cost: `order` network calls a step; 2 noises for the SDE.
    """

    order: Annotated[int, Wanted("1 or 2", lambda value: value in (1, 2))] = 1
    reverse: Reverse = Reverse.SDE

    @property
    def stochastic(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.reverse is Reverse.SDE

    def move(self, b: Builder, i: int, process: PhaseSpaceLangevin, h: float) -> None:
        share = 1.0 if self.stochastic else 0.5
        push, eye = share * process.diffusion, torch.eye(2, dtype=torch.float64)
        pull = push @ torch.linalg.inv(process.rest)
        linear = -process.drift - pull
        half = Mixing(torch.linalg.matrix_exp(h / 2 * linear))
        noise = spread(Mixing(linear), Mixing(process.diffusion), h / 2) if self.stochastic else 0.0
        t, point = b.t[i], "x"
        b.combine("x", (half, "x"), noise=noise)
        if self.order == 2:
            t, point = (
                float(process.time_at((process.clock(b.t[i]) + process.clock(b.t[i + 1])) / 2)),
                f"s{i}",
            )
            first = score(b, i, "", t)
            b.combine(point, (Mixing(eye + h / 2 * pull), "x"), (Mixing(h / 2 * push), first))
        rest = score(b, i, "m", t, point)
        b.combine("x", (1.0, "x"), (Mixing(h * pull), point), (Mixing(h * push), rest))
        b.combine("x", (half, "x"), noise=noise)
