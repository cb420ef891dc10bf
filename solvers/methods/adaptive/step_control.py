"""StepControl: whether a step is accepted, and how long the next one is."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ...checked import CheckedFields
from ...wanted import Finite, Limit, NonNegative, Positive

FLOOR = 1e-8  # added to errors that are divided by


class StepControl(CheckedFields, ABC):
    """Of each sample by itself, from the error of the step in units of the tolerance."""

    @abstractmethod
    def __call__(self, error: Tensor, past: Tensor, order: int) -> tuple[Tensor, Tensor]:
        """(accepted (B,) bool, factor (B,) on the step).

        Args:
            error: (B,) finite.
            past: (B, 2), of the last two accepted steps, the latest first; of the first attempt where there were none.
            order: q, where the error is O(h^q).
        """


@dataclass(frozen=True)
class IntegralControl(StepControl):
    """Accepts error <= 1; factor = safety error^(-exponent) within [low, high].

    Args:
        exponent: None for 1/q, the one that an error c h^q asks for.
    """

    safety: Positive = 0.9
    exponent: Positive | None = None
    low: NonNegative = 0.2
    high: Limit = 3.0

    def __post_init__(self) -> None:
        if self.low >= self.high:
            raise ValueError(
                f"IntegralControl: got low={self.low}, high={self.high}, expected low < high; swap them"
            )

    def __call__(self, error: Tensor, past: Tensor, order: int) -> tuple[Tensor, Tensor]:
        power = error.clamp(min=1e-30) ** -(self.exponent or 1 / order)
        return error <= 1, (self.safety * power).clamp(self.low, self.high)


@dataclass(frozen=True)
class PID(StepControl):
    """factor = 1 + atan(e_0^-b1 e_1^-b2 e_2^-b3 - 1) of this error and the two accepted before it, accepted where
    factor >= `accept`:

        b1 = (p + i + d)/q,  b2 = -(p + 2 d)/q,  b3 = d/q

    The default, i alone, accepts errors up to (1 + tan(accept - 1))^-q: 1.53 tolerances for q = 2, 1.90 for 3.
    Source: k-diffusion's controller, with its numbers; Soderlind 2003, digital filters in adaptive time-stepping.
    """

    p: Finite = 0.0
    i: Finite = 1.0
    d: Finite = 0.0
    accept: Positive = 0.81

    def __post_init__(self) -> None:
        if not (self.accept < 1 and self.p + self.i + self.d > 0):
            raise ValueError(
                f"PID: got p={self.p}, i={self.i}, d={self.d}, accept={self.accept}, expected p + i + d > 0 and accept "
                "< 1; a step whose error is the tolerance has the factor 1"
            )

    def __call__(self, error: Tensor, past: Tensor, order: int) -> tuple[Tensor, Tensor]:
        now = 1 / (error + FLOOR)
        before = 1 / (past + FLOOR)
        b1, b2, b3 = (self.p + self.i + self.d) / order, -(self.p + 2 * self.d) / order, self.d / order
        factor = 1 + torch.atan(now**b1 * before[:, 0] ** b2 * before[:, 1] ** b3 - 1)
        return factor >= self.accept, factor.clamp(min=1 - math.pi / 4)
