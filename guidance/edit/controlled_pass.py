"""ControlledPass: one of RF-Inversion's two controlled ODEs, ready to be run and differentiated."""

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ...adjoint import AdjointDEIS, Continuous, Gradient, Truncated
from ...solvers import Method, Model, Plan
from .base import where_wanted
from .controlled import Controlled
from .schedule import Strength, jumps, strengths


@dataclass(frozen=True, eq=False)
class ControlledPass:
    """What `sample` takes of a pass, and the strategy that fits it."""

    model: Controlled
    plan: Plan
    cond: dict[str, Any]
    name: str
    strength: Strength

    def strategy(self, gradient: Gradient | None, x: Tensor) -> Gradient | None:
        return self._fitted(where_wanted(gradient, self.model, x, self.cond))

    def _fitted(self, gradient: Gradient | None) -> Gradient | None:
        """`gradient`, a continuous one cut where the controller jumps.

        Raises:
            ValueError: a continuous one where the controller holds to its end, or jumps for each sample elsewhere.
        """
        if isinstance(gradient, Truncated):
            return replace(gradient, inner=self._fitted(gradient.inner))
        if not isinstance(gradient, AdjointDEIS | Continuous):
            return gradient
        gain = self.cond["gain"].values.detach()
        if self.plan.times[-1] == self.model.end and bool(gain[-1].any()):
            raise ValueError(
                f"{self.name}: got {gradient} and a controller that holds up to t={self.model.end:g}, expected one "
                "that stops before: from wherever it starts the controlled flow ends at its anchor, so that the flow's "
                f"own gradient is 0, and no run's; take {self.name}=Schedule(0.5, stop=0.9), or Checkpoint()"
            )
        cuts = jumps(self.strength, gain)
        if cuts and gain.ndim > 1:
            raise ValueError(
                f"{self.name}: got {gradient} and a schedule for each sample, expected one for all: the field's jumps "
                "are taken account of step by step; edit the samples one by one, or use Checkpoint()"
            )
        return replace(gradient, cuts=gradient.cuts or cuts) if isinstance(gradient, Continuous) else gradient


def controlled_pass(
    model: Model, method: Method, times: Tensor, name: str, strength: Strength, anchor: Tensor, cond: Any
) -> ControlledPass:
    """Along `times`, pulled to `anchor` at t = 1 if they rise and at t = 0 if they fall; all that is refused
    is refused here.
    """
    gain = strengths(name, strength, len(times) - 1, anchor)
    plan = method.along(model.process, times)
    if method.stochastic and bool(gain.detach().any()):
        raise ValueError(
            f"{method}: got {name} up to {float(gain.detach().max()):.4g} with a stochastic method, expected "
            f"{name}=0: SDE and controlled ODE have the same marginals only there; take FlowEuler()"
        )
    controlled = Controlled(model, 1.0 if bool((times[1] > times[0]).any()) else 0.0)
    controlled.check_end(plan, gain)
    return ControlledPass(controlled, plan, Controlled.cond(cond, anchor, gain), name, strength)
