"""EmbeddedPair: one step solved twice, to two orders, from shared network calls."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ...checked import CheckedFields
from ...compiler import Method
from ...prediction import Prediction
from ...process import Process
from .step_control import StepControl

Ask = Callable[[Tensor, Tensor, Prediction], Tensor]  # (x, t (B,), want) -> prediction: one network call


@dataclass(frozen=True, eq=False)
class Node:
    """Where each sample stands: t, alpha, sigma, lambda, (B,) in float64."""

    process: Process
    t: Tensor

    @property
    def alpha(self) -> Tensor:
        return self.process.alpha(self.t)

    @property
    def sigma(self) -> Tensor:
        return self.process.sigma(self.t)

    @property
    def lam(self) -> Tensor:
        return self.process.lam(self.t)


class EmbeddedPair(CheckedFields, ABC):
    """Two solutions of a step, `high` and `low`, whose difference is the error of `low`; `high` goes on.

    Attributes:
        method: whose plan takes the accepted steps: its step is `high`, number for number.
        want: the prediction at the start of a step; calls: network calls an attempt, that one included.
        order: q, where high - low is O(h^q).
        control, first: by default; first is a share of the way.
        stochastic: whether a step draws noise, and so only leads from noise to data.
    """

    method: Method
    want: ClassVar[Prediction]
    calls: int
    order: int
    control: ClassVar[StepControl]
    first: ClassVar[float]
    stochastic: ClassVar[bool] = False

    @abstractmethod
    def attempt(
        self, ask: Ask, x: Tensor, here: Tensor, start: Node, end: Node, noise: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """(low, high) at `end`, from x and its prediction `here` at `start`; `noise` is the step's unit increment."""

    def position(self, process: Process, t: Tensor) -> Tensor:
        """The coordinate in which steps are measured: lambda."""
        return process.lam(t)

    def time(self, process: Process, position: Tensor) -> Tensor:
        """Its inverse."""
        return process.time(position)

    def error(self, x: Tensor, low: Tensor, high: Tensor, before: Tensor, rtol: float, atol: float) -> Tensor:
        """(B,) root mean square over each sample of (high - low)/max(atol, rtol max(|low|, |before|)), where `before`
        is `low` of the last accepted step.
        """
        scale = (rtol * low.abs().maximum(before.abs())).clamp(min=atol)
        return ((high - low) / scale).square().flatten(1).mean(1).sqrt()
