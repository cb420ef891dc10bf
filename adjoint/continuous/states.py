"""The states of a run at its grid's nodes: recorded, improved at no network cost, or re-solved from the sample."""

import math
from collections.abc import Sequence
from enum import Enum

import numpy as np
import torch
from torch import Tensor

from ...solvers import Process
from ...solvers.methods.weights import data_weights


class States(Enum):
    """Where a continuous adjoint takes x_t from.

    RECORDED: kept in the forward pass, N states. INTEGRATED: those, re-integrated with the data predictions
    of the forward pass, linear in lambda between them: 2 N states, no network call; for deterministic plans
    with one prediction at each node. RESOLVED: integrated backwards from the sample, two states whatever N.
    """

    RECORDED = "recorded"
    INTEGRATED = "integrated"
    RESOLVED = "resolved"


def chosen(
    process: Process, times: Sequence[float], steps: int | None
) -> tuple[list[float], Sequence[int] | None]:
    """Times of `steps` intervals over the run's grid, and their indices in it (None where there are more than it has).

    A coarser grid takes nodes of the run, at even distances in their count; a finer one divides its steps in
    lambda.
    """
    n = len(times) - 1
    if steps is None or steps == n:
        return list(times), range(n + 1)
    if steps < n:
        index = [round(n * k / steps) for k in range(steps + 1)]
        return [times[k] for k in index], index
    lam = process.lam(torch.tensor(times, dtype=torch.float64)).numpy()
    if not np.isfinite(lam).all():
        raise ValueError(
            f"steps: got {steps} for a run of {n} with an infinite lambda at an end, expected at most {n}; "
            "or end the grid where alpha and sigma are positive"
        )
    fine = np.interp(np.linspace(0, n, steps + 1), np.arange(n + 1), lam)
    inner = process.time(torch.as_tensor(fine[1:-1])).tolist()
    return [times[0], *inner, times[-1]], None


def reintegrated(
    process: Process, times: Sequence[float], nodes: Sequence[Tensor], data: Sequence[Tensor]
) -> list[Tensor]:
    """x_i/sigma_i = x_{i-1}/sigma_{i-1} + INT e^lambda (linear through D_{i-1}, D_i) dlambda: better states,
    no network call.
    """
    t = torch.tensor(times, dtype=torch.float64)
    alpha, sigma, lam = (f(t).tolist() for f in (process.alpha, process.sigma, process.lam))
    path = [nodes[0]]
    for i in range(1, len(times)):
        ratio = sigma[i] / sigma[i - 1]
        if not (math.isfinite(lam[i]) and math.isfinite(lam[i - 1])) or i == len(data):
            path.append(nodes[i] + ratio * (path[-1] - nodes[i - 1]))
            continue
        old, new = data_weights(lam[i] - lam[i - 1], [0.0, 1.0])
        path.append(ratio * path[-1] + alpha[i] * (old * data[i - 1] + new * data[i]))
    return path


def between(
    process: Process,
    times: Sequence[float],
    path: Sequence[Tensor],
    data: Sequence[Tensor],
    at: Sequence[float],
) -> list[Tensor]:
    """The re-integrated path at any times, by the same integral over a part of a step."""

    def parts(values: Sequence[float]) -> tuple[list[float], list[float], list[float]]:
        t = torch.tensor(values, dtype=torch.float64)
        return process.alpha(t).tolist(), process.sigma(t).tolist(), process.lam(t).tolist()

    (alpha, sigma, lam), (_, sigma_n, lam_n) = parts(at), parts(times)
    found = []
    for k in range(len(at)):
        i = min(max(int(np.searchsorted(lam_n, lam[k], side="right")) - 1, 0), len(times) - 2)
        h = lam[k] - lam_n[i]
        if h < 1e-12:
            found.append(path[i])
            continue
        ahead = min(i + 1, len(data) - 1)
        old, new = data_weights(h, [0.0, (lam_n[i + 1] - lam_n[i]) / h])
        found.append(sigma[k] / sigma_n[i] * path[i] + alpha[k] * (old * data[i] + new * data[ahead]))
    return found
