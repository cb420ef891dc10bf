"""What a density asks of a plan and of the caller, said before the network is called."""

from typing import Any

import torch
from torch import Tensor

from ...solvers.instructions import Evaluate
from ...solvers.model import Model
from ...solvers.per_step import at_step
from ...solvers.plan import Plan
from ...solvers.process import as_time
from ..replay.cond import leaves
from ..transforms import transform


def check_differentiates(asker: str) -> None:
    """Raise ValueError where no graph can be made of a network call."""
    around = "torch.inference_mode()" if torch.is_inference_mode_enabled() else transform()
    if around:
        raise ValueError(
            f"{asker}: got a call under {around}, expected plain autograd, which Jacobians are made by; call "
            "outside of it, or under torch.no_grad()"
        )


def check_map(plan: Plan, asker: str) -> None:
    """Raise ValueError unless the plan is a function from one state to another."""
    if plan.stochastic or plan.slots:
        raise ValueError(
            f"{asker}: got {plan.name}, which draws noise, expected a deterministic plan; take DDIM() or "
            "DPMSolverPP(2)"
        )
    if (plan.entry, plan.exit) != (("x",), ("x",)):
        raise ValueError(
            f"{asker}: got {plan.name} from {', '.join(plan.entry)} to {', '.join(plan.exit)}, expected a plan from x "
            "alone to x alone; take a whole one, method.plan(process, grid)"
        )


def wants_gradient(model: Model, plan: Plan, x: Tensor, cond: Any) -> bool:
    """Whether anything that enters wants a gradient: told by the first network call where nothing declared does."""
    if not torch.is_grad_enabled():
        return False
    if any(tensor.requires_grad for tensor in (x, *leaves(cond), *model.parameters())):
        return True
    t = next((op.t for op in plan.instructions if isinstance(op, Evaluate)), plan.times[0])
    with torch.random.fork_rng([x.device] if x.is_cuda else []):  # the run's own draws are what they would be
        return model(x, as_time(t).to(x).reshape(-1).expand(len(x)), at_step(cond, 0)).requires_grad
