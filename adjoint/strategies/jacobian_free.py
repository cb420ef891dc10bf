"""JacobianFree: a gradient that takes every prediction of the network for a constant."""

from collections.abc import Collection
from dataclasses import dataclass

import torch

from ...solvers import NOISE, Call, Plan, Prediction
from ..replay.rollout import Registers, Rollout
from .gradient import Gradient
from .held_slopes import held_slopes
from .input import Input
from .left_out import refuse_left_out, warn_left_out_of

TAKEN, HELD = (Input.X, Input.NOISE, Input.CONTROLS), "predictions are held constant"


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
        refuse_left_out(self, wanted, TAKEN, HELD)

    def run(self, rollout: Rollout, registers: Registers) -> Registers:
        slopes = held_slopes(self, self.held, rollout.program.plan)

        def evaluate(call: Call, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                value = rollout.evaluate(call._replace(op=None), x)
            slope = slopes[call.index].to(x)
            return rollout.treated(call, value + slope.reshape(-1, *(1,) * (x.ndim - 1)) * (x - x.detach()))

        out = rollout.execute(registers, evaluate)
        warn_left_out_of(self, rollout, out["x"], TAKEN, HELD)
        return out

    def cost(self, plan: Plan) -> tuple[int, int]:
        return plan.nfe, 0
