"""The sampler's own map x_T -> x_0: the exact log-determinant of its Jacobian, and the density it gives to x_0."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from ...solvers.checked import checked
from ...solvers.methods.dpm import DPMSolverPP
from ...solvers.model import Model
from ...solvers.opening import carried
from ...solvers.per_step import PerStep
from ...solvers.plan import Plan
from ...solvers.wanted import Count, Positive, Samples
from ..choosing.auto import Auto
from ..sampling import sample
from ..strategies.gradient import Gradient
from .checks import check_differentiates, check_map, wants_gradient
from .estimate import LogProb
from .prior import GaussianPrior, LogPrior, log_of_prior


@checked
def map_log_det(
    denoiser: Model, plan: Plan, x: Samples, *, cond: Any = None, gradient: Gradient = Auto()
) -> tuple[Tensor, Tensor]:
    """(y, log |det dy/dx|), (B, ...) and (B,), of the map x -> y that a deterministic plan is: exact.

    A sampler that starts from x_T ~ prior draws x_0 with log density log prior(x_T) - log |det dx_0/dx_T|, where it
    maps no two x_T to one x_0 (what smooth flows with small steps do not).

    Args:
        plan: from x alone to x alone, rising or falling. One with a second state (`EDICT`, `BDIA`) copies it from x,
            and drops it: the map is that of x.
        gradient: how the rows of the Jacobian are made, and the gradient of the result.

    Raises:
        ValueError: a plan that draws noise; an inverse or a part of another, whose map need not be square.

    Cost: the run and d backward passes of `gradient`, for low dimension d. A gradient of the result differentiates
    these once more.
    """
    check_map(plan, "map_log_det")
    check_differentiates("map_log_det")
    x = carried(x)
    end, jacobian = _jacobian(denoiser, plan, x, cond, gradient, wants_gradient(denoiser, plan, x, cond))
    return end, torch.linalg.slogdet(jacobian).logabsdet


@checked
def sampler_log_prob(
    denoiser: Model,
    plan: Plan,
    x: Samples,
    *,
    cond: Any = None,
    prior: LogPrior = GaussianPrior(),
    start: Tensor | None = None,
    tolerance: Positive = 1e-5,
    most: Count = 20,
    gradient: Gradient = Auto(),
) -> LogProb:
    """The log density that the sampler itself, of so many steps, gives to x: not that of the flow it approximates.

        log q(x) = log prior(x_T) - log |det dx_0/dx_T|   at the x_T that the plan takes to x

    x_T is found by Newton's method, and the gradient at x, cond and parameters is that of the solution. Where several
    x_T lead to x, q is a sum over them and this the term of the one found.

    Args:
        plan: falling, deterministic, from x alone to x alone. With a second state: as of `map_log_det`.
        prior: the law of x_T, (x_T, alpha_T, sigma_T) -> (B,); by default N(0, sigma_T^2).
        start: what is near x_T, (B, ...); by default where `DPMSolverPP(2)` encodes x on the same times. Of a
            reversible plan x_T itself: `decode(denoiser, plan, registers)`.
        tolerance: of x, relative to 1 + max |x|, at which one last step follows, whose error is that squared.
        most: Newton steps.

    Raises:
        ValueError: as `map_log_det`; a plan that rises. RuntimeError: samples for which Newton's method does not
            converge.

    Cost: of each step d backward passes over the plan, as `map_log_det`.
    """
    check_map(plan, "sampler_log_prob")
    plan.check_falls("sampler_log_prob")
    check_differentiates("sampler_log_prob")
    x = carried(x)
    target, small = x.detach(), tolerance * (1 + x.detach().flatten(1).abs().amax(1))
    if start is not None and start.shape != x.shape:
        raise ValueError(
            f"start: got shape {tuple(start.shape)}, expected {tuple(x.shape)}, that of x; pass one for each"
        )
    at = _encoded(denoiser, plan, target, cond) if start is None else start.detach().to(x)
    steps = 0
    while True:
        end, jacobian = _jacobian(denoiser, plan, at, cond, gradient, differentiable=False)
        off = (end - target).flatten(1)
        far = ~(off.abs().amax(1) <= small)
        if not bool(far.any()):
            break
        if steps == most:
            raise RuntimeError(
                f"sampler_log_prob: got no x_T for samples {far.nonzero().flatten().tolist()[:8]} after {most} steps, "
                f"expected x to {tolerance:g}; pass start= near x_T, or take more steps in the plan"
            )
        at, steps = at - _solved(jacobian, off, at), steps + 1
    if wants_gradient(denoiser, plan, x, cond):
        end = sample(denoiser, plan, at, cond=cond, gradient=gradient)
    # d at = -J^-1 (dF - dx), the implicit function's derivative
    at = at - _solved(jacobian, (end - x).flatten(1), at)
    _, log_det = map_log_det(denoiser, plan, at, cond=cond, gradient=gradient)
    calls, vjps = gradient.cost(plan)
    rows = (steps + 2) * at.shape[1:].numel()
    nfe = (steps + 2) * plan.nfe + rows * (calls - plan.nfe)
    value = _Once.apply(log_of_prior(prior, at, plan, 0) - log_det)
    return LogProb(value[:, None], True, at, nfe, rows * vjps)


class _Once(torch.autograd.Function):
    """The identity, whose gradient has none: what it is put behind is right to first order only."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            raise NotImplementedError(
                "sampler_log_prob: got create_graph=True, expected first derivatives: x_T is solved for, and known to "
                "first order; take log_prob for second ones"
            )
        return grads[0]


def _solved(jacobian: Tensor, off: Tensor, like: Tensor) -> Tensor:
    return torch.linalg.solve(jacobian, off[..., None])[..., 0].view_as(like)


def _encoded(denoiser: Model, plan: Plan, x: Tensor, cond: Any) -> Tensor:
    """Roughly the noise of x: encoded on the plan's times but for sigma = 0, where not every network says the noise."""
    times = torch.tensor(plan.times, dtype=torch.float64).flip(0)
    if bool((plan.process.sigma(times[0]) == 0).any()):
        times = times[1:]
    if len(times) < 2:
        return x
    there = DPMSolverPP(2).along(plan.process, times)
    back = tree_map_only(PerStep, lambda leaf: PerStep(leaf.values.flip(0)[-there.steps :]), cond)
    found = sample(denoiser, there, x, cond=back, gradient=None)
    assert isinstance(found, Tensor)
    return found


def _jacobian(
    denoiser: Model, plan: Plan, x: Tensor, cond: Any, gradient: Gradient, differentiable: bool
) -> tuple[Tensor, Tensor]:
    """(y, dy/dx), (B, ...) and (B, d, d): a row for each number of y, of all samples at once."""
    with torch.enable_grad():
        leaf = x if differentiable and x.requires_grad else x.detach().requires_grad_()
        end = sample(denoiser, plan, leaf, cond=cond, gradient=gradient)
        assert isinstance(end, Tensor)
        rows = [
            torch.autograd.grad(entry.sum(), leaf, retain_graph=True, create_graph=differentiable)[0]
            for entry in end.flatten(1).unbind(1)
        ]
    jacobian = torch.stack(rows, 1).flatten(2)
    return (end, jacobian) if differentiable else (end.detach(), jacobian)
