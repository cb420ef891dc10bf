"""AIDI: each step of a sampler undone by a fixed point, Anderson-accelerated."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...adjoint.transforms import finite
from ...solvers import Model, Plan, run
from ...solvers.broadcast import per_sample
from ...solvers.checked import checked
from ...solvers.instructions import reads, writes
from ...solvers.loop import execute, predict
from ...solvers.program import prepare
from ...solvers.wanted import Positive, Samples
from .base import Edit, guided


@checked
def aidi(
    denoiser: Model,
    plan: Plan,
    image: Samples,
    *,
    source: Any,
    target: Any,
    iterations: int = 30,
    memory: int = 3,
    tolerance: Positive = 1e-6,
    scale: float | Tensor = 1.0,
    null: Any = None,
) -> Edit:
    """For each step x_{k+1} = Phi_k(x_k) of `plan`, last to first, the x_k that solves it; then the plan
    again under `target`.

    x <- x + (x_{k+1} - Phi_k(x)), accelerated over the last `memory` differences, sample by sample, until the
    largest residual |x_{k+1} - Phi_k(x)| of a sample is below `tolerance` or after `iterations`. Equal
    conditions give the image back to the residuals' size: an inverse of the sampler itself, not of the ODE.

    Args:
        plan: deterministic, single-step, falling (DDIM, FlowEuler, ...). image: (B, ...) at its last time.
        memory: 0 is the plain fixed point. iterations: at least 1, per step.

    Returns:
        An Edit with the largest residual (B,); check it. No gradients: the inversion runs without a graph.

    Raises:
        ValueError: a stochastic or multistep plan, numbers out of range.

    Cost: up to iterations x N calls, then N. Source: Pan et al. 2023, AIDI, arXiv 2309.04907 (the iteration;
    its blended guidance is left out).
    """
    if iterations < 1 or memory < 0 or not tolerance > 0:
        raise ValueError(
            f"aidi: got iterations={iterations}, memory={memory}, tolerance={tolerance}, expected at least "
            "1, 0 and above 0"
        )
    _single_step(plan)
    program, calls = prepare(plan, denoiser, image), 0

    def missing(k: int, end: Tensor, x: Tensor) -> Tensor:
        """end - Phi_k(x)."""
        step = program.steps(k, k + 1)
        return end - execute(step, {"x": x}, lambda call, y: predict(denoiser, call, y, source), None)["x"]

    state, worst = image.detach(), torch.zeros(len(image), dtype=image.dtype, device=image.device)
    with torch.no_grad():
        for k in reversed(range(plan.steps)):
            state, left, count = anderson(partial(missing, k, state), state, iterations, memory, tolerance)
            worst, calls = torch.maximum(worst, left), calls + count * (plan.nfe // plan.steps)
        out = run(guided(denoiser, scale, null), plan, state, target)
    if not finite(out):
        raise FloatingPointError(
            "aidi: got NaN or infinity in the edited image, expected finite values; check the image, and the network "
            "at the ends of the plan"
        )
    return Edit(out, state, calls + plan.nfe, residual=worst)


def anderson(
    residual: Callable[[Tensor], Tensor], x: Tensor, iterations: int, memory: int, tolerance: float
) -> tuple[Tensor, Tensor, int]:
    """(x, its largest residual (B,), evaluations) of x <- x + f(x), f = residual, each sample frozen once it
    has converged.

    With the differences dx, df between the last iterates and between their residuals, the weights w of least
    |f - df w| say how far those moves were wrong; the next one is x + f - (dx + df) w. Where f is affine this
    is GMRES.
    """
    past: list[tuple[Tensor, Tensor]] = []
    best, least = x, torch.full((len(x),), float("inf"), dtype=x.dtype, device=x.device)
    for count in range(1, iterations + 1):
        f = residual(x)
        size = f.abs().flatten(1).amax(1)
        better = (size < least) & (least > tolerance)
        best, least = torch.where(per_sample(better, x), x, best), torch.where(better, size, least)
        if bool((least <= tolerance).all()):
            return best, least, count
        past = [*past, (x.flatten(1), f.flatten(1))][-memory - 1 :]
        move = f.flatten(1)
        if len(past) > 1:
            dx, df = (
                torch.stack([b[j] - a[j] for a, b in zip(past, past[1:], strict=False)], 2) for j in (0, 1)
            )
            gram = df.mT @ df
            # residuals soon become parallel: a ridge at round-off keeps the weights finite
            limits, trace = torch.finfo(x.dtype), gram.diagonal(dim1=1, dim2=2).sum(1)
            ridge = 1e2 * limits.eps * trace.clamp(min=limits.tiny)
            gram = gram + ridge[:, None, None] * torch.eye(gram.shape[-1]).to(gram)
            weights = torch.linalg.solve(gram, df.mT @ move[..., None])
            move = move - ((dx + df) @ weights)[..., 0]
        x = x + move.view_as(x)
    return best, least, iterations


def _single_step(plan: Plan) -> None:
    """Raise ValueError unless each step is a function of x alone: only then there is an equation to solve for it."""
    if plan.stochastic or plan.slots:
        raise ValueError(
            f"{plan.name}: got a stochastic plan, expected a deterministic one; for its noises take "
            "cycle_diffusion"
        )
    for step in range(plan.steps):
        written = {"x"}
        for op in plan.step(step):
            if not set(reads(op)) <= written:
                raise ValueError(
                    f"{plan.name}: got step {step} that reads {sorted(set(reads(op)) - written)} of an "
                    "earlier one, expected a single-step method, such as DDIM() or FlowEuler()"
                )
            written |= set(writes(op))
