"""SampleOptimiser: what an optimiser of a batch of independent problems has in common, whatever its steps are."""

from abc import ABC
from typing import ClassVar

import torch
from torch import Tensor


class SampleOptimiser(torch.optim.Optimizer, ABC):
    """Every sample has its own steps and ends by itself, whatever its batch mates do.

    Attributes:
        variables: tensors (B, ...) with the batch first.
        converged: (B,), by the optimiser's own test.
        done: (B,), who stays where it is for good: converged, or nothing lower is found.
    """

    called: ClassVar[str]  # as users write it

    def __init__(self, variables: list[Tensor], lr: float = 1.0) -> None:
        super().__init__(variables, {"lr": lr})
        self.variables = variables
        none = torch.zeros(len(variables[0]), dtype=torch.bool, device=variables[0].device)
        self.converged, self.done = none, none

    def settle(self, where: Tensor) -> None:
        """Those have converged."""
        self.converged = self.converged | where & ~self.done
        self.done = self.done | where

    def read(self) -> Tensor:
        """The variables side by side, (B, d), a copy."""
        return torch.cat([value.detach().flatten(1) for value in self.variables], 1)

    def write(self, flat: Tensor) -> None:
        """Set the variables from (B, d)."""
        parts = flat.split([value[0].numel() for value in self.variables], 1)
        with torch.no_grad():
            for value, part in zip(self.variables, parts, strict=True):
                value.copy_(part.reshape(value.shape))
