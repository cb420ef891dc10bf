"""StatePath: the states at an adjoint's nodes, on the way back from the sample to the noise."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor

from .resolve import Resolver


class StatePath(ABC):
    """The states at an adjoint's nodes, asked for one after the other from the last to the first."""

    @abstractmethod
    def state(self, node: int) -> Tensor:
        """The state there."""


class KnownPath(StatePath):
    """States that were kept."""

    def __init__(self, states: Sequence[Tensor]) -> None:
        self.states = states

    def state(self, node: int) -> Tensor:
        return self.states[node]


class ResolvedPath(StatePath):
    """States that are solved for on the way, each from the one before and the noise prediction there.

    Args:
        x: the sample, at node `last`.
    """

    def __init__(self, resolver: Resolver, x: Tensor, last: int) -> None:
        self.resolver, self.x, self.node = resolver, x, last
        self.eps: Tensor | None = None

    def state(self, node: int) -> Tensor:
        if node < self.node:
            assert node == self.node - 1 and self.eps is not None
            self.x, self.node = self.resolver.back(self.node, self.x, self.eps), node
        return self.x

    def predicted(self, eps: Tensor) -> None:
        """The noise prediction at the state that was asked for last."""
        self.eps = eps
