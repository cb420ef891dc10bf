"""LearnedPart: which of a plan's numbers are learned, written so that no value of theirs is illegal."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from ...solvers import Model, Plan
from ...solvers.checked import CheckedFields


@dataclass(frozen=True, eq=False)
class Draft:
    """What is learned, as it stands: a plan, and the guidance scale (N,) of each of its steps where that is learned."""

    plan: Plan
    scale: Tensor | None = None


class LearnedPart(CheckedFields, ABC):
    """Free numbers theta (P,) float64 and what they make of a plan: `draft(0)` is the plan that was given.

    They are without units, of order 1, and any value of them is legal. Parts are applied one after another, by `rank`:
    times before the coefficients that they determine, labels last.
    """

    rank: int

    @abstractmethod
    def size(self, draft: Draft, model: Model) -> int:
        """P. Raises ValueError for a plan whose numbers it cannot learn."""

    @abstractmethod
    def applied(self, draft: Draft, theta: Tensor, model: Model) -> Draft:
        """`draft` under theta (P,)."""
