"""`ays`: the grid that minimises a bound on how far a stochastic sampler's law is from the model's."""

from typing import Any

import torch
from torch import Tensor

from ...solvers import Addressed, GivenTimes, Model
from ...solvers.checked import checked
from ...solvers.grid import Times as Grid
from ...solvers.grid import checked_times
from ...solvers.model import data_prediction
from ...solvers.wanted import Count, Samples, Whole


@checked
def ays(
    denoiser: Model, grid: Grid, data: Samples, *, cond: Any = None, levels: Count = 48, seed: Whole = 0
) -> GivenTimes:
    """The nodes of a grid that minimise sum_i KLUB(i), the bound of Align Your Steps for stochastic DDIM,

        KLUB(i) = int_{rho_{i+1}}^{rho_i} rho^-3 E |D(x_rho) - D(x_{rho_i})|^2 d rho,    rho = sigma/alpha

    which is Girsanov's: the reverse SDE has drift 2 (x - D)/rho and diffusion sqrt(2 rho), and a step holds D as it
    was at its start. In the manner of the paper: nodes are taken among `levels` + 1 equally spaced in lambda, where D
    is evaluated once, along one path of noise x_rho for each x_0, and the best are found exactly, by dynamic
    programming; the paper moves one node at a time and samples anew.

    Args:
        grid: N and the two ends, which stay and have a finite lambda. data: (B, ...) samples of the model, or
            real ones. cond: theirs, as for `sample`. seed: of the noise that they get.

    Returns:
        A grid for any method.

    Raises:
        ValueError: per-sample grids, ends without a finite lambda, fewer levels than steps.

    Cost: `levels` + 1 calls of B samples. Source: Sabour, Fidler and Kreis 2024, arXiv 2404.14507, section 3; the
    integrand is derived here for rho = t, as the paper has it.
    """
    process, times = denoiser.process, checked_times(grid, denoiser.process)
    lam = process.lam(times[[0, -1]])
    if times.ndim != 1 or not bool(lam.isfinite().all()) or levels < len(times) - 1:
        raise ValueError(
            f"ays: got {len(times) - 1} steps between lambda {lam.flatten().tolist()} on {levels} levels, expected one "
            "grid with finite ends and at least as many levels as steps; move the ends inside the process"
        )
    if not bool(data.isfinite().all()):
        raise ValueError("data: got samples that are not all finite, expected finite ones; leave those out")
    nodes = process.time(torch.linspace(float(lam[0]), float(lam[-1]), levels + 1, dtype=torch.float64))
    nodes[0], nodes[-1] = times[0], times[-1]
    chosen = _cheapest(_klub(denoiser, nodes, data, cond, seed), len(times) - 1)
    return GivenTimes(nodes[chosen])


def _klub(denoiser: Model, nodes: Tensor, data: Tensor, cond: Any, seed: int) -> Tensor:
    """(L+1, L+1) KLUB of a step from level i to level j > i: the trapezium sum in lambda, in which rho^-3 d rho is
    -rho^-2 d lambda.
    """
    process = denoiser.process
    rho = (-process.lam(nodes)).exp()
    noise, path, found = Addressed(seed), torch.zeros_like(data), []
    for k in range(len(nodes) - 1, -1, -1):  # upwards from the least noise: x_s given x_rho
        added = rho[k] ** 2 - (rho[k + 1] ** 2 if k + 1 < len(rho) else 0.0)
        path = path + float(added.sqrt()) * noise(k, data)
        x = float(process.alpha(nodes[k])) * (data + path)
        with torch.no_grad():
            found.append(data_prediction(denoiser, x, float(nodes[k]), cond))
    predicted = torch.stack(found[::-1]).flatten(1).double()
    apart = torch.cdist(predicted, predicted).square() / len(data)
    rate = apart / rho**2  # column j: at level j, of a step that began at row i
    gaps = process.lam(nodes).diff()
    pieces = (rate[:, 1:] + rate[:, :-1]) / 2 * gaps
    total = torch.cat([torch.zeros(len(nodes), 1, dtype=torch.float64), pieces.cumsum(1)], 1)
    return total - total.diagonal()[:, None]


def _cheapest(cost: Tensor, steps: int) -> list[int]:
    """The levels of the cheapest way from the first to the last in so many steps."""
    last = len(cost) - 1
    later = torch.ones_like(cost).triu(1) > 0
    cost = torch.where(later, cost, torch.inf)
    best, behind = cost[0], []
    for _ in range(steps - 1):
        best, before = (best[:, None] + cost).min(0)
        behind.append(before)
    way = [last]
    for before in reversed(behind):
        way.append(int(before[way[-1]]))
    return [0, *reversed(way)]
