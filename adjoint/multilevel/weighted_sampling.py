"""`sample_multilevel`: expectations, and gradients, of a fine sampler from many coarse runs and few fine ones."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from ...solvers import Addressed, Model
from ...solvers.checked import checked
from ...solvers.noise import INITIAL
from ...solvers.packing import State
from ..arguments import check_arguments
from ..choosing.auto import Auto
from ..sampling import sample
from ..strategies.gradient import Gradient
from .levels import GridLevels
from .rows import batch_size, rows_of
from .weighted import Weighted

LEVEL, SHIFT = INITIAL - 1, INITIAL - 2  # slots of what decides on levels, out of the reach of any plan


@checked
def sample_multilevel(
    denoiser: Model,
    levels: GridLevels,
    x: State,
    *,
    noise: Addressed,
    cond: Any = None,
    gradient: Gradient | None = Auto(),
) -> Weighted:
    """Samples of several grids with weights, so that for any f of one sample

        E[sum_i w_i f(samples_i)] = (1/B) sum_b f(sample of x_b on the finest grid)

    (of the limit, where `levels` go on without end), and likewise for its gradient:

        drawn = sample_multilevel(denoiser, levels, x, noise=Addressed(seed, ids))
        drawn.mean(loss(drawn.samples)).backward()

    The expectation is over the levels that samples are run on, so x and the path of each sample are given. f must not
    mix samples.

    Args:
        denoiser, x, cond, gradient: as `sample` has them; each tensor of cond with a row for every sample.
        noise: by (seed, sample id) the level of each sample and its Brownian path, one on all grids. New ids (or
            another seed) make a new, independent estimate.

    Raises:
        ValueError: as `sample`; PerStep conditioning, a method with two draws in a step, noise on a grid with infinite
            lambda. TypeError: noise that is not addressed.

    Cost: `levels.nfe` network calls a sample on average, and the strategy's for the backward pass; one `sample` for
    each level in use, on the samples that are run there. Source: Giles 2008, Operations Research 56(3), multilevel
    Monte Carlo; Rhee and Glynn 2015 for levels drawn at random; here with gradients through every run.
    """
    size = batch_size(x)
    ids = noise.samples if noise.samples is not None else tuple(range(size))
    table = _table(levels, noise, ids, size)
    used = [level for level in range(table.shape[1]) if bool(table[:, level].any())] or [0]
    parts = [(level, table[:, level].nonzero().flatten()) for level in used]
    device = tree_leaves(x)[0].device
    runs: list[dict[str, Any]] = []
    for level, index in parts:  # whatever can be refused, before the first network call
        runs.append(
            {
                "plan": levels.plan(level),
                "x": rows_of(x, index.to(device), size, "x"),
                "cond": rows_of(cond, index.to(device), size, "cond"),
                "noise": levels.noise(noise, tuple(ids[k] for k in index.tolist()), level),
                "gradient": gradient,
            }
        )
        check_arguments(denoiser, **runs[-1])
    out = [sample(denoiser, **run) for run in runs]
    samples = tree_map(lambda *leaves: torch.cat(leaves), out[0], *out[1:])
    return Weighted(
        samples,
        torch.cat([table[index, level] for level, index in parts]).to(tree_leaves(samples)[0]),
        torch.cat([index for _, index in parts]).to(device),
        torch.cat([torch.full_like(index, level) for level, index in parts]).to(device),
        size,
        sum(len(index) * levels.plan(level).nfe for level, index in parts),
    )


def _table(levels: GridLevels, noise: Addressed, ids: tuple[int, ...], size: int) -> Tensor:
    """The weight of each sample on each level, from draws at its own address."""
    if len(ids) != size:
        raise ValueError(
            f"noise: got {len(ids)} sample ids, expected {size}, one for each sample of the batch"
        )
    u = torch.tensor([_uniform(noise, sample, LEVEL) for sample in ids], dtype=torch.float64)
    return levels.allocation.table(levels.draws.of(u, _uniform(noise, min(ids, default=0), SHIFT)))


def _uniform(noise: Addressed, sample: int, slot: int) -> float:
    """In (0, 1), of the normal draw at an address: what is above it, which is exact where it is small."""
    z = float(noise.at(sample, slot, (1,)))
    return 0.5 * math.erfc(z / math.sqrt(2))
