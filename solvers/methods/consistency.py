"""Multistep sampling with a network that jumps to the end of its trajectory: consistency models, LCM, sCM, TCD."""

import math
from dataclasses import dataclass

from ..compiler import Builder, Method
from ..prediction import DATA
from ..process import as_time


@dataclass(frozen=True)
class LCM(Method):
    """x_t = (alpha_t/alpha_e) f(x, s) + sqrt(sigma_t^2 - (alpha_t/alpha_e)^2 sigma_e^2) xi, noise all of it fresh.

    f is a consistency function, in the place of the data prediction: the point at time e, the `end`, of the flow's
    trajectory through x at s. Without `end` that is the data: x_t = alpha_t f + sigma_t xi, and a step to sigma = 0
    gives f itself.

        latent consistency models (LCM)      LCM()
        sCM, SCM                             LCM() on alpha = cos t, sigma = sigma_d sin t, with a FLOW prediction: its
                                             F is dx/dt/sigma_d, and f = cos(t) x - sin(t) sigma_d F
        consistency models (CM)              LCM(end=0.002) on EDM: f + sqrt(t^2 - 0.002^2) xi

    With the exact f every node has exactly the law p_t, whatever the steps. With a denoiser, which is no consistency
    function, the error does not vanish with the number of steps: order 0.

    Source: Luo et al. 2023, arXiv 2310.04378 (multistep sampling); Lu and Song 2024, arXiv 2410.11081, section 2;
    Song et al. 2023, arXiv 2303.01469, algorithm 1. Cost: 1 network call a step, 2 states, 1 noise.
    """

    end: float | None = None
    order = 0
    stochastic = True

    def step(self, b: Builder, i: int) -> None:
        alpha, sigma = 1.0, 0.0
        if self.end is not None:
            _check_end(self, b, self.end)
            alpha, sigma = (float(f(as_time(self.end))) for f in (b.process.alpha, b.process.sigma))
        _noised(b, i, (alpha, sigma), (1 / alpha, b.evaluate(f"D{i}", b.t[i], DATA)))


@dataclass(frozen=True)
class TCD(Method):
    """Strategic stochastic sampling: DDIM from s down to e = (1 - gamma) t, below the next node t, and noise up to t:

        x_e = alpha_e D + sigma_e E,  x_t = (alpha_t/alpha_e) x_e + sqrt(sigma_t^2 - (alpha_t/alpha_e)^2 sigma_e^2) xi

    gamma = 0 is DDIM; gamma = 1 is LCM where sigma = 0 at t = 0. Network: a trajectory consistency model. With a
    denoiser the noise does not shrink with the steps, and order is 0 for gamma > 0.

    Args:
        gamma: in [0, 1]; diffusers calls it eta, and rounds (1 - gamma) t down to a trained time.

    Source: Zheng et al. 2024, arXiv 2402.19159 (gamma-sampling). Cost: 1 network call a step, 2 states,
    1 noise.
    """

    gamma: float = 0.3

    def __post_init__(self) -> None:
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"TCD: got gamma={self.gamma}, expected 0 <= gamma <= 1; 0 is DDIM, 1 is LCM")

    @property
    def stochastic(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.gamma > 0

    @property
    def order(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return 0 if self.gamma else 1

    def step(self, b: Builder, i: int) -> None:
        if not self.gamma or b.sigma[i + 1] == 0:
            return b.first_order(i)
        end = as_time(max((1 - self.gamma) * b.t[i + 1], b.process.t_min))
        alpha, sigma = float(b.process.alpha(end)), float(b.process.sigma(end))
        ratio = sigma / b.sigma[i]  # sigma_e E = ratio (x - alpha_s D)
        data = b.evaluate(f"D{i}", b.t[i], DATA)
        _noised(b, i, (alpha, sigma), (ratio / alpha, "x"), ((alpha - ratio * b.alpha[i]) / alpha, data))


def _noised(b: Builder, i: int, end: tuple[float, float], *terms: tuple[float, str]) -> None:
    """x <- alpha_t times the sum of `terms`, which is x/alpha at `end` = (alpha, sigma) there, noised to node i + 1."""
    alpha, low = b.alpha[i + 1], end[1] / end[0]
    high = b.rho(i + 1)
    b.combine(
        "x",
        *((alpha * c, name) for c, name in terms),
        noise=alpha * math.sqrt(max((high - low) * (high + low), 0.0)),
    )


def _check_end(method: Method, b: Builder, end: float) -> None:
    if not b.process.t_min <= end <= b.t[-1]:
        raise ValueError(
            f"{method}: got end={end}, expected a time of {b.process} no later than the grid's last, {b.t[-1]:g}; "
            "end the grid there"
        )
