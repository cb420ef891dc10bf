"""JacobianFree: a gradient that takes every prediction of the network for a constant."""

from collections.abc import Collection
from dataclasses import dataclass

import torch

from ..solvers import NOISE, Call, Plan, Prediction
from .gradient import Gradient
from .held_slopes import held_slopes
from .input import Input
from .left_out import warn_left_out_of
from .replay.rollout import Registers, Rollout


@dataclass(frozen=True)
class JacobianFree(Gradient):
    """Every call's output A x + B H with the prediction H = `held` constant: an approximation, in which a run
    is linear in x, noise and controls. These alone get a gradient; conditioning and parameters get none, and
    those that require grad are named in a warning.

    NOISE as in MPGD (arXiv 2311.16424): dx_0/dx_T = alpha_0/alpha_T where a method integrates a constant exactly,
    as DDIM does. FLOW as in FlowChef (arXiv 2412.00100): the identity on a rectified flow. Cost: N F; no state
    and no activation is kept.
    """

    held: Prediction = NOISE

    def check(self, plan: Plan, wanted: Collection[Input] = ()) -> None:
        for name in (Input.COND, Input.PARAMETERS):
            if name in wanted:
                raise ValueError(
                    f"{self}: got {name.value} to differentiate, expected x, noise or controls alone: predictions are "
                    "held constant; use Checkpoint()"
                )
        held_slopes(self, self.held, plan)

    def run(self, rollout: Rollout, registers: Registers) -> Registers:
        slopes = held_slopes(self, self.held, rollout.program.plan)

        def evaluate(call: Call, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                value = rollout.evaluate(call._replace(op=None), x)
            slope = slopes[call.index].to(x)
            return rollout.treated(call, value + slope.reshape(-1, *(1,) * (x.ndim - 1)) * (x - x.detach()))

        out = rollout.execute(registers, evaluate)
        if not out["x"].requires_grad or rollout.program.learned:
            raise ValueError(
                f"{self}: got grad wanted elsewhere, expected it at x, noise or controls; use Checkpoint()"
            )
        warn_left_out_of(self, rollout, ("noise", "controls"), "predictions are held constant")
        return out

    def cost(self, plan: Plan) -> tuple[int, int]:
        return plan.nfe, 0
