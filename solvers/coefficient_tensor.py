"""A plan's numbers as one differentiable vector: gradients for coefficients, grid times, eta, process parameters."""

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any

import torch
from torch import Tensor

from .checked import checked
from .instructions import Combine, Evaluate, reads, writes
from .kinds import check_kind
from .model import Model
from .plan import Plan
from .prediction import conversion
from .program import BoundCombine, BoundEvaluate, Call, Program
from .wanted import Wanted

# (offsets in units of the step, weights) of fourth-order first derivatives: central, and to either side at an
# end
STENCILS = (
    ((-2, -1, 1, 2), (1 / 12, -2 / 3, 2 / 3, -1 / 12)),
    ((-4, -3, -2, -1, 0), (1 / 4, -4 / 3, 3.0, -4.0, 25 / 12)),
    ((0, 1, 2, 3, 4), (-25 / 12, 4.0, -3.0, 4 / 3, -1 / 4)),
)


@checked
def coefficients(plan: Plan, model: Model) -> Tensor:
    """(K,) float64: for each Evaluate its time t and the map a, b of its prediction, for each Combine its
    factors, in order.

    Raises:
        ValueError: for a stacked plan, or one with an Apply.
    """
    plan.check_linear("coefficients")
    plan.check_numbers("coefficients")
    found: list[Any] = []
    for op in plan.instructions:
        if isinstance(op, Evaluate):
            a, b = conversion(model.prediction, op.want, plan.process, op.t)  # type: ignore[arg-type]
            found += [op.t, float(a), float(b)]
        elif isinstance(op, Combine):
            found += [c for c, _ in op.terms] + [c for c, _ in op.noise]
    if plan.batch is not None:
        raise ValueError(
            f"coefficients: got a plan with one grid for each of {plan.batch} samples, expected one grid"
        )
    return torch.tensor(found, dtype=torch.float64)


def bound(program: Program, values: Tensor, like: Tensor) -> Program:
    """`program` with `values`, as `coefficients` orders them, for its numbers."""
    rest, ops = iter(values.to(like).unbind()), []
    for item in program.ops:
        if isinstance(item, BoundCombine):
            terms = tuple([(next(rest), name) for _, name in item.terms])
            noise = tuple([(next(rest), slot) for _, slot in item.noise])
            item = BoundCombine(item.out, terms, noise, item.dead, item.step)
        elif isinstance(item, BoundEvaluate):
            t, a, b = next(rest), next(rest), next(rest)
            call = Call(item.call.index, item.call.step, t.expand(len(like)), a, b, item.call.op)
            item = BoundEvaluate(item.op, call, item.dead, item.step)
        ops.append(item)
    return replace(program, ops=ops, learned=values.requires_grad)


@checked
def compiled(
    make: Annotated[
        Callable[[Tensor], Plan],
        Wanted("a function of theta to a plan; pass lambda t: DDIM().plan(process, t)"),
    ],
    theta: Tensor,
    model: Model,
) -> tuple[Plan, Tensor]:
    """`make(theta)` and its coefficients as a differentiable function of theta.

        plan, values = compiled(lambda t: DPMSolverPP(2).plan(process, t), times, denoiser)
        sample(denoiser, plan, x, coefficients=values)         # its gradient reaches `times`

    Args:
        make: from a detached float64 theta (P,) to a plan; grid times, DDIM's eta, a process's beta_max. The
            model's process is compared with the plan's at theta only.
        theta: (P,) float64.

    The derivative of the compiler is taken by fourth-order differences in float64 (relative error about
    1e-9), since compiling costs nothing beside a network call.

    Cost: 4 P compilations in the backward pass. Raises ValueError where theta sits where the program changes
    its form.
    """
    if theta.ndim != 1 or theta.dtype != torch.float64:
        raise ValueError(
            f"compiled: got theta of shape {tuple(theta.shape)} and {theta.dtype}, expected (P,) in float64"
        )
    plan = make(theta.detach())
    check_kind("make", plan, Plan, "a function that returns a plan; pass lambda t: DDIM().plan(process, t)")
    return plan, _Compile.apply(theta, make, model, plan)  # type: ignore[return-value]


class _Compile(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, theta: Tensor, make: Callable[[Tensor], Plan], model: Model, plan: Plan) -> Tensor:
        ctx.made = theta, make, model, plan
        return coefficients(plan, model)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        theta, make, model, plan = ctx.made
        theta = theta.detach()
        columns = [_derivative(make, theta, k, model, plan) for k in range(len(theta))]
        return torch.stack(columns) @ grads[0], None, None, None


def _derivative(make: Callable[[Tensor], Plan], theta: Tensor, k: int, model: Model, plan: Plan) -> Tensor:
    """d coefficients / d theta_k; one-sided where theta_k cannot go both ways."""
    step = 1e-4 * max(1e-2, abs(float(theta[k])))
    reason: Exception | None = None
    for offsets, weights in STENCILS:
        try:
            total = torch.zeros_like(coefficients(plan, model))
            for offset, weight in zip(offsets, weights, strict=True):
                moved = theta.clone()
                moved[k] += offset * step
                other = make(moved)
                if _form(other) != _form(plan):
                    raise ValueError(f"the program at {offset:+d} steps of {step:g} has another form")
                total += weight / step * coefficients(other, model)
            return total
        except ValueError as error:
            reason = error
    raise ValueError(
        f"compiled: got theta[{k}]={float(theta[k]):g}, where the plan cannot be differentiated ({reason}); "
        "expected a value inside its range; leave it out of theta"
    )


def _form(plan: Plan) -> list[Any]:
    return [(type(op), reads(op), writes(op)) for op in plan.instructions]
