"""The flow ODE as an SDE with the same marginals: Flow-GRPO's and DanceGRPO's diffusion."""

import math
from dataclasses import dataclass

from ..compiler import Builder, Method
from ..prediction import DATA
from .tau import Tau, mean_square


@dataclass(frozen=True)
class FlowSDE(Method):
    """x_t = x + (u + g^2/(2 sigma) E)(t - s) + g sqrt(s - t) xi,  g^2 = a^2 sigma (sigma' alpha - alpha'
    sigma)/alpha at s.

    u = alpha' D + sigma' E is the flow of the ODE; the term in E = -sigma score pays for the noise, so that
    the law at every time stays the ODE's. On the rectified path g = a sqrt(sigma/(1 - sigma)). a = 0 is
    FlowEuler; a = sqrt(2) is memoryless: g^2 is then the process's own, and the sample forgets the starting
    noise (arXiv 2409.08861, section 4). A `Tau` in the place of a is a/sqrt(2): with it this is EulerMaruyama(tau).
    Where alpha = 0 the denominator alpha is that of the next node, as in the authors' code. Every step draws noise,
    the last one too: a grid to sigma = 0 leaves g sqrt(s - t) of it in the sample.

    Source: Liu et al. 2025 (Flow-GRPO), arXiv 2505.05470, eq. 8-9, which gives a = 0.7. Cost: 1 network call
    a step, 2 states, 1 noise.
    """

    a: float | Tau = 0.7
    order = 1

    def __post_init__(self) -> None:
        if not (isinstance(self.a, Tau) or (self.a >= 0 and math.isfinite(self.a))):
            raise ValueError(f"FlowSDE: got a={self.a}, expected a finite number >= 0, or a Tau")

    @property
    def stochastic(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return isinstance(self.a, Tau) or self.a > 0

    def step(self, b: Builder, i: int) -> None:
        d_alpha, d_sigma = slopes(b, i)
        turn = d_sigma * b.alpha[i] - d_alpha * b.sigma[i]
        square = 2 * mean_square(self.a, b.lam[i], b.lam[i + 1]) if isinstance(self.a, Tau) else self.a**2
        euler(b, i, square * b.sigma[i] * turn / (b.alpha[i] or b.alpha[i + 1]))


@dataclass(frozen=True)
class ConstantFlowSDE(Method):
    """As `FlowSDE` with g = eta at every time: far from memoryless, since the noise does not grow with sigma.

    Source: Xue et al. 2025 (DanceGRPO), arXiv 2505.07818, section 3, which gives eta = 0.3. Cost: as
    `FlowSDE`.
    """

    eta: float = 0.3
    order = 1

    def __post_init__(self) -> None:
        if not (self.eta >= 0 and math.isfinite(self.eta)):
            raise ValueError(f"ConstantFlowSDE: got eta={self.eta}, expected a finite number >= 0")

    @property
    def stochastic(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.eta > 0

    def step(self, b: Builder, i: int) -> None:
        euler(b, i, self.eta**2)


def slopes(b: Builder, i: int) -> tuple[float, float]:
    """(alpha', sigma') at node i; raises ValueError where one is not finite."""
    d_alpha, d_sigma = float(b.process.d_alpha(b.t[i])), float(b.process.d_sigma(b.t[i]))
    if not (math.isfinite(d_alpha) and math.isfinite(d_sigma)):
        raise ValueError(
            f"flow SDE: got alpha'={d_alpha}, sigma'={d_sigma} at t={b.t[i]}, expected finite slopes; start "
            "the grid inside the process's end"
        )
    return d_alpha, d_sigma


def euler(b: Builder, i: int, g2: float) -> None:
    """One Euler step of the SDE with squared diffusion g2, written in x and D."""
    d_alpha, d_sigma = slopes(b, i)
    width = b.t[i + 1] - b.t[i]
    pull = (d_sigma + g2 / (2 * b.sigma[i])) / b.sigma[i]  # on x - alpha D = sigma E
    data = b.evaluate(f"D{i}", b.t[i], DATA)
    b.combine(
        "x",
        (1 + width * pull, "x"),
        (width * (d_alpha - b.alpha[i] * pull), data),
        noise=math.sqrt(g2 * -width) if g2 else 0.0,
    )
