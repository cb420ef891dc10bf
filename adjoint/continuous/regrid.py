"""Regridded: sums of gradients over a grid that is not the run's."""

from collections.abc import Collection, Mapping

from torch import Tensor

from ...solvers import Call
from ...solvers.linear_map import Value
from ..replay.graph_walk import Extent
from ..replay.inputs import Inputs
from ..replay.live_call import CallGradients, replay
from ..replay.rollout import Rollout
from ..replay.sensitivity import Sensitivity
from .adjoint_grid import AdjointGrid

Entering = list[tuple[int, float]]  # intervals of the adjoint, and the weight that a call has in each


class Regridded(Sensitivity):
    """Sums in which one interval of the adjoint stands for several steps of the run, or for a part of one.

    Steps and slots are counted from where the run begins, as those of a plan on the adjoint's grid.

    Args:
        reached: the shared inputs that every call of the run reached; None where they differ.
    """

    def __init__(
        self,
        rollout: Rollout,
        inputs: Inputs,
        wanted: Collection[str],
        jumps: Mapping[int, Tensor],
        grid: AdjointGrid,
        reached: Extent | None,
    ) -> None:
        super().__init__(rollout, inputs.shared, wanted, jumps)
        self.inputs, self.grid, self.reached = inputs, grid, reached

    def vjp_at(
        self, call: Call, entering: Entering, state: Tensor, cotangent: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Evaluate `call` at `state` and pull the cotangent back: (prediction, cotangent of the state).

        Args:
            entering: what the gradients of conditioning and parameters enter. The call sees the conditioning
                of the step that has most of the first.
        """
        step, _ = max(self.grid.shares(entering[0][0]), key=lambda share: share[1])
        live = replay(self.rollout, call._replace(step=step), state, self.inputs, self.reached)
        found = live.vjp(cotangent, self.shared, self.cond)
        if found is None:
            return live.out.detach(), None
        self._add_weighted(entering, found)
        return live.out.detach(), found.state

    def _add_weighted(self, entering: Entering, found: CallGradients) -> None:
        total = sum(weight for _, weight in entering)
        for name, grad in found.shared.items():
            if grad is not None:
                self.add(name, grad * total)
        for alias, grad in found.cond:
            if grad is None:
                continue
            name = f"cond[{alias.leaf}]"
            if not alias.scheduled:
                self.add(name, grad * total)
                continue
            for interval, weight in entering:
                for step, share in self.grid.shares(interval):
                    self.add(name, grad * (weight * share), step)

    def opened(self, step: int, cotangent: Tensor) -> None:
        super().opened(self.grid.begin + step, cotangent)

    def jump(self, step: int) -> Tensor | None:
        opening = self.grid.opens(step)
        return None if opening is None else super().jump(opening)

    def noise(self, slot: int, cotangent: Tensor, c: Value) -> None:
        super().noise(self.grid.begin + slot, cotangent, c)
