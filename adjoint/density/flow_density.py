"""`log_prob`: how likely x is under what the probability flow makes of noise."""

from typing import Any

import torch
from torch import Tensor

from ...solvers.checked import checked
from ...solvers.kinds import described
from ...solvers.model import Model
from ...solvers.opening import carried, check_state
from ...solvers.packing import State, packing_of
from ...solvers.plan import Plan
from ...solvers.wanted import Positive
from ..choosing.auto import Auto
from ..sampling import sample
from ..strategies.gradient import Gradient
from .checks import check_differentiates, check_map, wants_gradient
from .divergence import ExactDivergence, FlowDivergence
from .estimate import LogProb
from .joint_flow import JointFlow
from .prior import GaussianPrior, LogPrior, levels, log_of_prior


@checked
def log_prob(
    denoiser: Model,
    plan: Plan,
    x: State,
    *,
    cond: Any = None,
    divergence: FlowDivergence = ExactDivergence(),
    variance: Tensor | Positive = 1.0,
    prior: LogPrior = GaussianPrior(),
    gradient: Gradient | None = Auto(),
) -> LogProb:
    """log p(x) at the data end of the probability flow, solved by `plan` from data to noise.

        log p_0(x_0) = log prior(x_T) + (1/2) sum_i log (s_T^2/s_0^2)_i - (l_T - l_0),   s_i^2 = alpha^2 v_i + sigma^2

    The change of l is carried beside x as one more quantity of the same plan (`JointFlow`), so that it has the plan's
    order: 2 for `DPMSolverPP(2)`, 4 for `FlowAdams(4, starter=True)`.

    Args:
        denoiser: its Jacobian is that of one sample by itself; batch mates never meet.
        plan: deterministic and rising: method.plan(process, Rising(grid)).
        x: (B, ...), or a joint state, taken for x_t at the plan's first time. The density is that of x_t: where sigma
            is not 0 there, of data with that much noise.
        divergence: `ExactDivergence()`, `Hutchinson(count)` or `HutchPP(sketch, count)`.
        variance: v, of the data, one number or one for each entry, in the shape of a sample. Any v > 0 has the same
            limit; N(., diag v) has no error but that of x_T, and what is near to it a smaller one.
        prior: the law at the plan's last time, (x_T, alpha_T, sigma_T) -> (B,); by default N(0, sigma_T^2).
        gradient: a strategy for gradients at x, cond and parameters, as of `sample`: with `Checkpoint()` memory does
            not grow with the steps but for their states. Probes make it unbiased too.

    Raises:
        ValueError: a plan that falls, draws noise, applies functions or is a part or an inverse of another; a call
            under inference_mode or torch.func; a network that autograd does not see through.

    Cost: plan.nfe network calls and plan.nfe * divergence.products(d) VJPs; with a gradient what its strategy makes of
    calls that hold those VJPs. One call more in grad mode where nothing that is declared requires grad.
    """
    _check(plan)
    check_differentiates("log_prob")
    packing = packing_of(x)
    packed = packing.pack(x)
    check_state(packed)
    packed = carried(packed)
    model, flat = packing.model(denoiser), packed.flatten(1)
    batch, dims = flat.shape
    probes = divergence.probes(flat.detach())
    joint = JointFlow(model, packed.shape[1:], divergence, probes, _variances(variance, flat))
    start = flat.new_zeros(batch, divergence.lanes)
    if gradient is not None:
        # lanes that require grad, whoever wants one: `JointFlow` records graphs of states that do
        start.requires_grad_(wants_gradient(model, plan, packed, cond))
    end = sample(joint, plan, torch.cat([flat, start], 1), cond=cond, gradient=gradient)
    assert isinstance(end, Tensor)
    x_end, w = packing.unpack(end[:, :dims].reshape(packed.shape)), end[:, dims:]
    (alpha_0, sigma_0), (alpha, sigma) = levels(plan, 0), levels(plan, -1)
    gained = joint.log_scale(alpha, sigma) - joint.log_scale(alpha_0, sigma_0)
    known = log_of_prior(prior, x_end, plan, -1) + gained.to(w)
    lanes = known[:, None] - w / (alpha + sigma).to(w).reshape(-1, 1)
    return LogProb(lanes, divergence.exact, x_end, plan.nfe, plan.nfe * divergence.products(dims))


def _variances(value: Tensor | float, like: Tensor) -> Tensor:
    """(1,) or (d,) for states like (B, d)."""
    found = torch.as_tensor(value).detach().to(like).flatten()
    if found.numel() not in (1, like.shape[1]) or not bool(((found > 0) & found.isfinite()).all()):
        raise ValueError(
            f"variance: got {described(value)}, expected positive finite numbers, one or one for each of "
            f"{like.shape[1]} entries; pass images.var(0)"
        )
    return found


def _check(plan: Plan) -> None:
    plan.check_affine("log_prob")
    check_map(plan, "log_prob")
    if not plan.rises:
        raise ValueError(
            f"log_prob: got {plan.name} on a grid that falls from noise to data, expected a rising one, from data to "
            "noise; take method.plan(process, Rising(grid))"
        )
