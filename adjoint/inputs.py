"""Inputs: every tensor that enters a run, by name, and how it stood."""

from collections.abc import Sequence

from torch import Tensor

from ..solvers import Model
from .parameters import parameters
from .rollout import Registers, Rollout
from .snapshot import Snapshot


class Inputs:
    """Every tensor that enters a run, by name.

    Args:
        model: the run's.
        own: registers, conditioning, controls, noise.
        common: what every call takes: parameters and captured leaves.

    Attributes:
        wanted: those that require grad.
        shared: of these the common ones.
        snapshot: how all of them, and the model's modules, stood when this was made.
    """

    def __init__(self, model: Model, own: dict[str, Tensor], common: dict[str, Tensor]) -> None:
        self.model, self.own, self.common = model, own, common
        every = own | common
        self.wanted = {name: value for name, value in every.items() if value.requires_grad}
        self.shared = {name: value for name, value in common.items() if value.requires_grad}
        self.snapshot = Snapshot(model, every)

    @classmethod
    def of(cls, rollout: Rollout, registers: Registers) -> "Inputs":
        """What is known before the first network call."""
        own = {f"register {name}": value for name, value in registers.items()} | rollout.arguments()
        return cls(rollout.model, own, parameters(rollout.model))

    def captured(self, leaves: Sequence[Tensor]) -> "Inputs":
        """What is known after it: `leaves` enter too, and what the call initialised stands as it is now."""
        found = {f"captured tensor {k}": leaf for k, leaf in enumerate(leaves)}
        return Inputs(self.model, self.own, self.common | found)
