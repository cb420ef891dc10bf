"""How the output of a network moves with its state where one prediction is held."""

import torch
from torch import Tensor

from ...solvers import Evaluate, Plan, Prediction, convert
from .gradient import Gradient


def held_slopes(strategy: Gradient, held: Prediction, plan: Plan) -> list[Tensor]:
    """A of every call's output A x + B H with H = `held`: the output at x = 1, H = 0.

    Raises ValueError where H does not give the others at some time of the grid.
    """
    ops = [op for op in plan.instructions if isinstance(op, Evaluate)]
    t = torch.tensor([op.t for op in ops], dtype=torch.float64)
    try:
        slopes = {w: convert(0 * t, 0 * t + 1, held, w, plan.process, t) for w in {op.want for op in ops}}
    except ValueError as error:
        raise ValueError(
            f"{strategy}: got held={held.name} on {plan.name}, expected a prediction that gives the others at every "
            f"time of the grid; hold another (DATA and V do at alpha = 0), or start later: {error}"
        ) from None
    return [slopes[op.want][k] for k, op in enumerate(ops)]
