"""DPM-Solver-fast: single steps of order 3, and lower ones at the end that use up the calls."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from ..compiler import Builder, Method
from ..wanted import Wanted
from .dpm_single import DPMSolverPPSingle, DPMSolverSingle

_Remainder = Annotated[int, Wanted("0, 1 or 2, the network calls modulo 3", lambda n: n in (0, 1, 2))]


@dataclass(frozen=True)
class _Fast(Method):
    """Single steps of order 3 and a tail."""

    remainder: _Remainder = 2
    single: ClassVar[type[DPMSolverPPSingle] | type[DPMSolverSingle]]

    @property
    def order(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return 3 if self.remainder == 2 else 2

    def step(self, b: Builder, i: int) -> None:
        left = b.steps - i  # steps to the end, this one included
        if self.remainder == 0:
            order = min(left, 3)
        else:
            order = self.remainder if left == 1 else 3
        if order == 1:
            return b.first_order(i)
        self.single(order).step(b, i)


@dataclass(frozen=True)
class DPMSolverFast(_Fast):
    """K network calls as single steps of DPM-Solver, of order 3, 3, ... with a tail by the `remainder` of K by 3:

        0: ..., 3, 2, 1      1: ..., 3, 1      2: ..., 3, 2

    A grid of N steps makes K = 3 (N - 1) + remainder; for K calls take N = K // 3 + 1. The order is 3 with remainder
    2 alone: a first-order step at the end costs h^2 once. Steps that touch alpha = 0 or sigma = 0 are first order,
    and cost 1.

    Source: Lu et al. 2022, arXiv 2206.00927, section 3.4. Cost: K network calls.
    """

    single = DPMSolverSingle


@dataclass(frozen=True)
class DPMSolverPPFast(_Fast):
    """`DPMSolverFast` with the single steps of DPM-Solver++, on the data prediction.

    Source: Lu et al. 2022, arXiv 2211.01095. Cost: K = 3 (N - 1) + `remainder` network calls.
    """

    single = DPMSolverPPSingle
