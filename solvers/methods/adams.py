"""Adams-Bashforth on the noise prediction: what DEIS, LMS and the pseudo linear multistep methods share, and LMS."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from ..compiler import Builder, Method
from ..prediction import NOISE
from ..wanted import Wanted
from .runge_kutta import BY_ORDER, rho_step
from .weights import plain_weights

Nodes = Annotated[int, Wanted("a whole number from 1 to 4", lambda n: n in (1, 2, 3, 4))]


class NoiseAdams(Method):
    """y_t = y_s + sum_j w_j E_{-j},  y = x/alpha: a step takes E at its own node and interpolates the last ones.

    Steps from alpha = 0 (or from sigma = 0) are first order; sigma = 0 at the end is regular, as rho = sigma/alpha
    is finite there.

    `starter`: whether the first steps, before all nodes are there, are rho-Runge-Kutta of the method's order.
    """

    starter: bool = False

    def step(self, b: Builder, i: int) -> None:
        if not b.finite(i) or b.alpha[i + 1] == 0:
            return b.first_order(i)
        first = b.evaluate(f"E{i}", b.t[i], NOISE)
        reach, nodes = 1, self.reaches()
        while reach < min(nodes, i + 1) and b.finite(i - reach):
            reach += 1
        if not (i < nodes - 1 and b.finite(i + 1) and self.opens(b, i, first)):
            self.advance(b, i, reach)

    def reaches(self) -> int:
        """How many nodes a step interpolates, once they are there."""
        return self.order

    def opens(self, b: Builder, i: int, first: str) -> bool:
        """Emit step i, one of those before all nodes are there, in a way of the method's own; False where it has none.
        `first` is E of node i.
        """
        if self.starter:
            rho_step(b, i, BY_ORDER[self.order], first)
        return self.starter

    @abstractmethod
    def advance(self, b: Builder, i: int, reach: int) -> None:
        """Emit step i from E of nodes i, i - 1, ... i - reach + 1."""


def adams_step(
    b: Builder, i: int, weights: Sequence[float], extra: tuple[tuple[float, str], ...] = ()
) -> None:
    """x_t = (alpha_t/alpha_s) x + alpha_t (sum_j weights_j E_{-j} + sum of `extra`)."""
    scale = b.alpha[i + 1]
    b.combine(
        "x",
        (scale / b.alpha[i], "x"),
        *((scale * w, f"E{i - j}") for j, w in enumerate(weights)),
        *((scale * w, name) for w, name in extra),
    )


def rho_nodes(b: Builder, i: int, reach: int) -> tuple[float, list[float]]:
    """(rho_t - rho_s, the last nodes in units of it from rho_s: 0, then negative ones)."""
    width = b.rho(i + 1) - b.rho(i)
    return width, [(b.rho(i - j) - b.rho(i)) / width for j in range(reach)]


@dataclass(frozen=True)
class LMS(NoiseAdams):
    """y_t = y_s + sum_j C_j E_{-j},  C_j = INT_{rho_s}^{rho_t} L_j drho,  y = x/alpha, rho = sigma/alpha.

    Linear multistep: L_j interpolates in rho over the last `order` nodes, with weights of its own for each step. One
    method of three names: k-diffusion's and diffusers' LMS, DEIS' rhoAB, and iPNDM with variable steps (iPNDM_v).
    With `starter` the first steps are rho-Runge-Kutta of the same order, `RhoRK`.

    Source: k-diffusion's sample_lms; Zhang and Chen 2023, arXiv 2204.13902, appendix. Cost: 1 network call a step,
    order + 1 states.
    """

    order: Nodes = 4
    starter: bool = False

    def advance(self, b: Builder, i: int, reach: int) -> None:
        width, nodes = rho_nodes(b, i, reach)
        adams_step(b, i, [width * w for w in plain_weights(nodes)])
