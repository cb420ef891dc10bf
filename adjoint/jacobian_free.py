"""JacobianFree: a gradient that takes every prediction of the network for a constant."""

from dataclasses import dataclass

import torch

from ..solvers import NOISE, Call, Evaluate, Plan, Prediction, convert
from .gradient import Gradient
from .left_out import warn_left_out
from .rollout import Registers, Rollout


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

    def run(self, rollout: Rollout, registers: Registers) -> Registers:
        plan = rollout.program.plan
        ops = [op for op in plan.instructions if isinstance(op, Evaluate)]
        t = torch.tensor([op.t for op in ops], dtype=torch.float64)
        # A of every call, for each kind of output: the output at x = 1, H = 0
        try:
            A = {w: convert(0 * t, 0 * t + 1, self.held, w, plan.process, t) for w in {op.want for op in ops}}
        except ValueError as error:
            raise ValueError(
                f"{self}: got held={self.held.name} on {plan.name}, expected a prediction that gives the others at "
                f"every time of the grid; hold another (DATA and V do at alpha = 0), or start later: {error}"
            ) from None

        def evaluate(call: Call, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                value = rollout.evaluate(call, x)
            slope = A[ops[call.index].want][call.index].to(x)
            return value + slope.reshape(-1, *(1,) * (x.ndim - 1)) * (x - x.detach())

        out = rollout.execute(registers, evaluate)
        if not out["x"].requires_grad or rollout.program.learned:
            raise ValueError(
                f"{self}: got grad wanted elsewhere, expected it at x, noise or controls; use Checkpoint()"
            )
        taken = {"noise", "controls"}
        wanted = [
            name for name, value in rollout.declared().items() if value.requires_grad and name not in taken
        ]
        warn_left_out(self, wanted, "predictions are held constant")
        return out

    def cost(self, plan: Plan) -> tuple[int, int]:
        return plan.nfe, 0
