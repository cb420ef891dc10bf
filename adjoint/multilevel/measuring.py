"""`measured_levels`: a pilot run on a ladder of grids."""

from collections.abc import Callable
from typing import Annotated, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from ...solvers import Addressed, Exponential, Grid, Method, Model
from ...solvers.checked import checked
from ...solvers.kinds import check_kind
from ...solvers.packing import State
from ...solvers.wanted import Wanted
from ..sampling import sample
from ..strategies.checkpoint import Checkpoint
from ..strategies.gradient import Gradient
from .allocation import CoupledSum
from .levels import GridLevels, StepCounts
from .pilot import Pilot
from .rows import batch_size, rows_of


@checked
def measured_levels(
    denoiser: Model,
    method: Method,
    grid: Grid,
    steps: StepCounts,
    x: State,
    loss: Annotated[Callable[[State], Tensor], Wanted("a function of samples (B, ...) to (B,)")],
    *,
    noise: Addressed,
    cond: Any = None,
    gradient: Gradient = Checkpoint(),
    clock: Exponential = Exponential(1.0),
) -> Pilot:
    """Variance and cost of the gradient of loss(sample) on each grid, and of the differences between them.

        pilot = measured_levels(denoiser, DPMSolverPP(2), UniformLambda(100, start=1.0, end=0.03), (5, 10, 20, 100),
                                x, loss, noise=Addressed(0))
        print(pilot)
        levels = pilot.levels()

    Gradients are taken at everything that requires grad: parameters, x, cond. Variance is the sum over entries.

    Args:
        method, grid, clock: as `GridLevels` has them.
        steps: of the grids to choose among, rising, the last the one that is wanted; up to 12.
        x: (B, ...) B >= 2 pilot samples; 16 tell a rare large difference from none only by luck, take 64 where that
            can be paid. noise, cond: theirs.
        loss: of each sample, (B,).

    Raises:
        ValueError: as `sample_multilevel`; fewer than 2 samples, more than 12 grids, nothing that requires grad.

    Cost: B runs on every grid with a VJP, one sample at a time; memory two gradients a grid.
    """
    size = batch_size(x)
    if size < 2 or len(steps) > 12:
        raise ValueError(
            f"measured_levels: got {size} samples and {len(steps)} grids, expected at least 2 samples and at most 12 "
            "grids"
        )
    found = (*tree_leaves((x, cond)), *denoiser.parameters())
    if not any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in found):
        raise ValueError(
            "measured_levels: got parameters, x and cond none of which requires grad, expected at least one; call "
            "requires_grad_() on what you optimise"
        )
    ladder = GridLevels(method, denoiser.process, grid, steps, CoupledSum((1.0,) * len(steps)), clock=clock)
    ids = noise.samples if noise.samples is not None else tuple(range(size))
    products = torch.zeros(len(steps), len(steps), dtype=torch.float64)
    totals: list[Tensor] = []
    for k in range(size):
        one = tree_map(_leaf, rows_of((x, cond), torch.tensor([k]), size, "x and cond"))
        each = [
            _gradient(denoiser, ladder, level, one, noise, ids[k], loss, gradient)
            for level in range(len(steps))
        ]
        found = [torch.stack(same) for same in zip(*each, strict=True)]  # (K, P) for each tensor
        totals = [before + now for before, now in zip(totals, found, strict=True)] if totals else found
        products += _products(found)
    second, means = products / size, _products(totals) / size**2
    return Pilot(
        ladder,
        second,
        (second - means) * (size / (size - 1)),
        tuple(float(sum(gradient.cost(ladder.plan(level)))) for level in range(len(steps))),
        size,
    )


def _gradient(
    denoiser: Model,
    ladder: GridLevels,
    level: int,
    one: tuple[State, Any],
    noise: Addressed,
    sample_id: int,
    loss: Callable[[State], Tensor],
    gradient: Gradient,
) -> list[Tensor]:
    """That of one sample's loss on `level`, flat, at each tensor that requires one."""
    x, cond = one
    inputs = [
        leaf
        for leaf in (*tree_leaves(one), *denoiser.parameters())
        if isinstance(leaf, Tensor) and leaf.requires_grad
    ]
    drawn = ladder.noise(noise, (sample_id,), level)
    out = sample(denoiser, ladder.plan(level), x, cond=cond, noise=drawn, gradient=gradient)
    value = loss(out)
    check_kind("loss", value, Tensor, "a tensor (B,), one value per sample; return it")
    if value.shape != (1,):
        raise ValueError(
            f"loss: got {tuple(value.shape)} for a batch of one sample, expected (1,): one value per sample; reduce "
            "over every axis but the first"
        )
    grads = torch.autograd.grad(value.sum(), inputs, allow_unused=True)
    return [
        (torch.zeros_like(leaf) if g is None else g).flatten() for leaf, g in zip(inputs, grads, strict=True)
    ]


def _products(found: list[Tensor]) -> Tensor:
    """(K, K) inner products of gradients; in float64, since small differences are read off them."""
    wide = [each.double() for each in found]
    return sum((each @ each.mT for each in wide), torch.zeros(())).cpu()


def _leaf(value: Any) -> Any:
    """A tensor as a leaf of a graph of its own."""
    return value.detach().requires_grad_(value.requires_grad) if isinstance(value, Tensor) else value
