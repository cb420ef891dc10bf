"""RhoRK: Runge-Kutta in the clock rho, DEIS' rhoRK."""

from dataclasses import dataclass

from ..compiler import Builder, Method
from .runge_kutta import HEUN, Tableau, rho_step


@dataclass(frozen=True)
class RhoRK(Method):
    """An explicit Runge-Kutta step of dy/drho = E,  y = x/alpha, rho = sigma/alpha.

        RhoRK(KUTTA3)     or HEUN, MIDPOINT, RK4, DOPRI5, or a Tableau of one's own

    HEUN is `EDMHeun()`. Steps that touch alpha = 0 or sigma = 0 are first order. Order: the tableau's.

    Source: Zhang and Chen 2023, arXiv 2204.13902, section 4 (rhoRK). Cost: a network call a stage.
    """

    tableau: Tableau = HEUN

    @property
    def order(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.tableau.order

    def step(self, b: Builder, i: int) -> None:
        if not (b.finite(i) and b.finite(i + 1)):
            return b.first_order(i)
        rho_step(b, i, self.tableau)
