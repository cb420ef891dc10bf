"""Inputs: every tensor that enters a run, by name."""

from collections.abc import Sequence

from torch import Tensor

from ...solvers import Call, Model
from .graph_walk import Extent, Reach
from .parameters import parameters
from .rollout import Registers, Rollout
from .snapshot import check_initialised


class Inputs:
    """Every tensor that enters a run, by name.

    Args:
        model: the run's.
        own: registers, conditioning, controls, noise.
        common: what every call takes: parameters and captured leaves.

    Attributes:
        wanted: those that require grad.
        shared: of these the common ones.
    """

    def __init__(self, model: Model, own: dict[str, Tensor], common: dict[str, Tensor]) -> None:
        self.model, self.own, self.common = model, own, common
        self.wanted = {name: value for name, value in self.every().items() if value.requires_grad}
        self.shared = {name: value for name, value in common.items() if value.requires_grad}

    def every(self) -> dict[str, Tensor]:
        return self.own | self.common

    @classmethod
    def of(cls, rollout: Rollout, registers: Registers) -> "Inputs":
        """What is known before the first network call. Raises ValueError where a parameter has no shape yet."""
        own = {f"register {name}": value for name, value in registers.items()} | rollout.arguments()
        common = parameters(rollout.model)
        check_initialised(rollout.model, common)
        return cls(rollout.model, own, common)

    def captured(self, leaves: Sequence[Tensor]) -> "Inputs":
        """What is known after it: `leaves` enter too."""
        found = {f"captured tensor {k}": leaf for k, leaf in enumerate(leaves)}
        return Inputs(self.model, self.own, self.common | found)

    def check_later(self, call: Call, found: Reach) -> None:
        """Raise RuntimeError where a call of the forward pass reaches what the first one did not."""
        if found.elsewhere:
            raise RuntimeError(
                f"network call {call.index} of step {call.step} reaches what entered another call (features or a "
                "projection of cond kept from call to call?), expected its own state and conditioning alone; let "
                "the network compute them anew in every call, or use Direct()"
            )
        if found.leaves:
            raise RuntimeError(
                f"network call {call.index} of step {call.step} reaches {self._name(found.leaves[0])} the first "
                "call did not; expected the same inputs at every call; register it as a parameter, pass it in "
                "cond, or use Checkpoint(mechanism=Mechanism.REGION)"
            )

    def check_replayed(self, call: Call, found: Reach, expected: Extent | None) -> None:
        """Raise RuntimeError where a replay is differentiated by less, or by more, than its call was."""
        self.check_later(call, found)
        if expected is None:
            return
        lost, gained = expected.known - found.extent.known, found.extent.known - expected.known
        if lost:
            raise RuntimeError(
                f"network call {call.index} of step {call.step} did not reach {self._names(lost)} in the backward "
                "pass, expected what it reached in the forward pass: the network kept something that was computed "
                "without a graph in between (a memoised embedding?); clear it before backward, or use Direct()"
            )
        if gained or expected.edges not in (None, found.extent.edges):
            what = (
                f"reached {self._names(gained)}" if gained else f"had a graph of {found.extent.edges} edges"
            )
            then = "not in the forward pass" if gained else f"{expected.edges} in the forward pass"
            raise RuntimeError(
                f"network call {call.index} of step {call.step} {what} in the backward pass and {then}, expected the "
                "same in both: the network detaches, or turns grad off, by something else than x, t and cond (a "
                "counter of its calls, a flag set since, random numbers of its own?); let it go by t, or use Direct()"
            )

    def _names(self, ids: frozenset[int]) -> str:
        return ", ".join(sorted(name for name, value in self.shared.items() if id(value) in ids)[:3])

    def _name(self, leaf: Tensor) -> str:
        for name, value in self.every().items():
            if value is leaf:
                return f"{name}, which"
        return f"a leaf of shape {tuple(leaf.shape)}"
