"""A predictor-corrector in EDM scaling: second order from the first step, one network call a step, bounded at
both ends.
"""

import math
from dataclasses import dataclass

import numpy as np

from ..compiler import Builder, Method
from ..prediction import DATA
from .weights import integrate


@dataclass(frozen=True)
class EDMPEC(Method):
    """With S^2 = alpha^2 s^2 + sigma^2, the clock phi = 2 atan(s alpha/sigma) and Y = x/S, the flow is dY/dphi = F:

        F_i = (S_i^2 D_i - s^2 alpha_i x_i) / (2 s S_i sigma_i)       EDM's network output, D_i at x_i
        Y_i = Y_{i-1} + a_i F_{i-1} + b_i F_i                         corrector: linear in lambda
        x_{i+1} = S_{i+1} (Y_i + (phi_{i+1} - phi_i) F_i)             predictor; the last one is the sample

    a_i, b_i integrate the linear Lagrange basis over [lambda_{i-1}, lambda_i] with weight dphi/dlambda.

    Args:
        s: standard deviation of the data, as EDM's sigma_data; 0.3 to 2 differ by little.

    Source: ours; scaling of Karras et al. 2022, arXiv 2206.00364. Cost: 1 network call a step, 3 states.
    """

    s: float = 0.5
    order = 2

    def __post_init__(self) -> None:
        if not self.s > 0:
            raise ValueError(f"EDMPEC: got s={self.s}, expected a positive standard deviation of the data")

    def step(self, b: Builder, i: int) -> None:
        s = self.s
        if b.sigma[i] == 0:  # F has no value there; only a rising grid starts so
            return b.first_order(i)
        scale = [math.hypot(s * b.alpha[k], b.sigma[k]) for k in (i, i + 1)]
        data = b.evaluate(f"D{i}", b.t[i], DATA)
        b.combine(
            f"F{i}",
            (scale[0] / (2 * s * b.sigma[i]), data),
            (-s * b.alpha[i] / (2 * scale[0] * b.sigma[i]), "x"),
        )
        ahead, older = self._clock(b, i + 1) - self._clock(b, i), ()
        if i and b.sigma[i - 1] > 0:
            a, c = self._corrector(b, i)
            # x_i / S_i is Y_{i-1} after the predictor, which the corrector takes back
            older = ((scale[1] * (a - self._clock(b, i) + self._clock(b, i - 1)), f"F{i - 1}"),)
            ahead += c
        b.combine("x", (scale[1] / scale[0], "x"), (scale[1] * ahead, f"F{i}"), *older)

    def _clock(self, b: Builder, i: int) -> float:
        return 2 * math.atan2(self.s * b.alpha[i], b.sigma[i])

    def _corrector(self, b: Builder, i: int) -> tuple[float, float]:
        low, high = b.lam[i - 1], b.lam[i]
        total = self._clock(b, i) - self._clock(b, i - 1)
        if not (math.isfinite(low) and math.isfinite(high)):
            return total / 2, total / 2  # linear in phi, which is finite
        shift = math.log(self.s)
        new = integrate(lambda u: (u - low) / (high - low) / np.cosh(u + shift), low, high)
        return total - new, new
