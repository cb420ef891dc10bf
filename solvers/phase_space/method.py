"""PhaseMethod: what the samplers of position and momentum share."""

import functools
from abc import abstractmethod
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..compiler import Builder, Method
from ..grid import Times
from ..linear_map import Mixing
from ..plan import Plan
from ..prediction import SCORE
from .process import PhaseSpaceLangevin

_NODES, _WEIGHTS = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(32))


class PhaseMethod(Method):
    """A sampler of `PhaseSpaceLangevin`, whose steps are 2 x 2 matrices on (x, m).

    With clock u falling by h = u_s - u_t in a step, the reverse SDE and the probability flow are

        dz = (-A z + a D score) du' + sqrt((2a - 1) D) dw,  u' from 0 to h,  a = 1 (SDE) or 1/2 (ODE)
    """

    @abstractmethod
    def move(self, b: Builder, i: int, process: PhaseSpaceLangevin, h: float) -> None:
        """Emit step i, which takes the clock down by h > 0."""

    def step(self, b: Builder, i: int) -> None:
        assert isinstance(b.process, PhaseSpaceLangevin)
        self.move(b, i, b.process, float(b.process.clock(b.t[i]) - b.process.clock(b.t[i + 1])))

    def along(self, process: object, grid: Times) -> Plan:
        if not isinstance(process, PhaseSpaceLangevin):
            raise TypeError(
                f"{self}: got {process}, expected a PhaseSpaceLangevin; on a process of positions alone take another "
                "method, such as DPMSolverPP(2)"
            )
        return super().along(process, grid)


def score(b: Builder, i: int, tag: str, t: float, src: str = "x") -> str:
    """A register with the score of register `src` at t."""
    return b.evaluate(f"S{i}{tag}", t, SCORE, src)


def integral(fn: Callable[[Tensor], Tensor], h: float) -> Tensor:
    """INT_0^h fn(v) dv of matrices: fn takes (n,) and returns (n, 2, 2)."""
    panels = max(1, int(np.ceil(h)))
    edges = torch.linspace(0.0, h, panels + 1, dtype=torch.float64)
    half = h / panels / 2
    points = (edges[:-1, None] + half + half * _NODES).reshape(-1)
    return (half * _WEIGHTS.repeat(panels)[:, None, None] * fn(points)).sum(0)


@functools.lru_cache(maxsize=4096)
def spread(linear: Mixing, diffusion: Mixing, h: float) -> Mixing:
    """L, lower triangular, with L L^T = INT_0^h e^{Kv} D e^{Kv}^T dv: the noise of dz = K z dv + sqrt(D) dw over h. An
    integral of positive terms: no difference of numbers near 1 that a short step would lose.
    """

    def rate(v: Tensor) -> Tensor:
        flow = torch.linalg.matrix_exp(v[:, None, None] * linear.values)
        return flow @ diffusion.values @ flow.mT

    return Mixing(torch.linalg.cholesky(integral(rate, h)))
