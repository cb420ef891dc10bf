"""The states of a run at its grid's nodes: recorded, improved at no network cost, or re-solved from the sample."""

import math
from collections.abc import Collection, Sequence
from enum import Enum

import numpy as np
import torch
from torch import Tensor

from ...solvers import Process
from ...solvers.methods.weights import data_weights


class States(Enum):
    """Where a continuous adjoint takes x_t from.

    RECORDED: kept in the forward pass, N states; of a staggered plan those that the network sees at the nodes.
    INTEGRATED: those, re-integrated with the data predictions of the forward pass, linear in lambda between them: 2 N
    states, no network call; for deterministic plans with one prediction at each node. RESOLVED: integrated backwards
    from the sample, two states whatever N.
    """

    RECORDED = "recorded"
    INTEGRATED = "integrated"
    RESOLVED = "resolved"


def reintegrated(
    process: Process,
    times: Sequence[float],
    nodes: Sequence[Tensor],
    data: Sequence[Tensor],
    cuts: Collection[int] = (),
) -> list[Tensor]:
    """x_i/sigma_i = x_{i-1}/sigma_{i-1} + INT e^lambda (linear through D_{i-1}, D_i) dlambda: better states,
    no network call.

    Args:
        cuts: nodes at which the field jumps, so that the prediction there is no end of the interval before it.
    """
    t = torch.tensor(times, dtype=torch.float64)
    alpha, sigma, lam = (f(t).tolist() for f in (process.alpha, process.sigma, process.lam))
    path = [nodes[0]]
    for i in range(1, len(times)):
        # from sigma = 0, where a rising grid may start, a step holds the noise instead
        ratio = sigma[i] / sigma[i - 1] if sigma[i - 1] else alpha[i] / alpha[i - 1]
        if not (math.isfinite(lam[i]) and math.isfinite(lam[i - 1])) or i == len(data) or i in cuts:
            # no integral at an infinite end, no prediction of this field at the end: the run's own step, from here
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
    cuts: Collection[int] = (),
) -> list[Tensor]:
    """The re-integrated path at any times, by the same integral over a part of a step."""

    def parts(values: Sequence[float]) -> tuple[list[float], list[float], list[float]]:
        t = torch.tensor(values, dtype=torch.float64)
        return process.alpha(t).tolist(), process.sigma(t).tolist(), process.lam(t).tolist()

    (alpha, sigma, lam), (_, sigma_n, lam_n) = parts(at), parts(times)
    sign, found = math.copysign(1.0, lam_n[-1] - lam_n[0]), []
    along = sign * np.array(lam_n)
    for k in range(len(at)):
        i = min(max(int(np.searchsorted(along, sign * lam[k], side="right")) - 1, 0), len(times) - 2)
        h = lam[k] - lam_n[i]
        if sign * h < 1e-12:  # a node of the run
            found.append(path[i])
            continue
        # where there is no prediction of this field at the step's end, the one at its beginning is held
        ahead = i if i + 1 in cuts or i + 1 == len(data) else i + 1
        old, new = data_weights(h, [0.0, (lam_n[i + 1] - lam_n[i]) / h])
        found.append(sigma[k] / sigma_n[i] * path[i] + alpha[k] * (old * data[i] + new * data[ahead]))
    return found
