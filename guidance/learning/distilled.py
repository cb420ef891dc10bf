"""`d_ode`: one factor a step, each by least squares, from a teacher on a finer grid."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...adjoint import trajectory
from ...adjoint.arguments import check_arguments
from ...solvers import DDIM, Combine, Evaluate, Model, Plan
from ...solvers.checked import checked
from ...solvers.grid import Times as Grid
from ...solvers.grid import checked_times
from ...solvers.model import data_prediction
from ...solvers.opening import carried
from ...solvers.wanted import Count, Samples


@checked
def d_ode(denoiser: Model, grid: Grid, x: Samples, *, cond: Any = None, scale: Count = 10) -> Plan:
    """D-DDIM: DDIM with one number more a step, on how the data prediction changed since the last one,

        x_{k+1} = (sigma_{k+1}/sigma_k) x_k + (...) D_k + lambda_k (D_k - D_{k-1}),    lambda_0 = 0

    lambda_k is the least-squares fit, over all of x and with the steps before as they were fitted, of x_{k+1} to the
    state at that node of DDIM on a grid with each step of t cut into `scale`; 0 where D did not change.

    Args:
        grid: of the plan, as for `Method.plan`; finite lambda but at its end. x: (B, ...) noise at its first time; the
            paper takes one batch. cond: as for `sample`.

    Returns:
        An ordinary Plan of N calls.

    Raises:
        ValueError: per-sample grids, one that begins without noise.

    Cost: N (scale + 1) calls of B samples, no gradient. Source: Kim, Tang and Yu 2023, arXiv 2309.16421, D-DDIM on data
    predictions. The paper's teacher subdivides Karras' sigma where ours subdivides t.
    """
    process, times = denoiser.process, checked_times(grid, denoiser.process)
    if times.ndim != 1:
        raise ValueError(
            f"d_ode: got a grid {tuple(times.shape)} for each sample, expected one (N+1,); pass one"
        )
    share = torch.arange(scale, dtype=torch.float64) / scale
    between = times[:-1, None] + (times[1:] - times[:-1])[:, None] * share
    fine = torch.cat([between.flatten(), times[-1:]])
    base, teacher = DDIM().plan(process, times), DDIM().plan(process, fine)
    check_arguments(denoiser, base, x, cond=cond)
    x = carried(x.detach())
    nodes = [scale * (k + 1) for k in range(base.steps)]
    targets = trajectory(denoiser, teacher, x, nodes, cond=cond, gradient=None)
    ops, before = list(base.instructions), None
    for k, (start, target) in enumerate(zip(base.starts, targets, strict=True)):
        evaluate, step = ops[start : start + 2]
        assert isinstance(evaluate, Evaluate) and isinstance(step, Combine) and isinstance(target, Tensor)
        factors, now = {name: float(c) for c, name in step.terms}, f"D{k}"  # type: ignore[arg-type]
        ratio, gain = factors.get("x", 0.0), factors.get(now, 0.0)  # at sigma = 0 there is no ratio
        with torch.no_grad():
            data = data_prediction(denoiser, x, evaluate.t, cond)
        x = ratio * x + gain * data
        if before is not None:
            change = data - before
            size = float(change.square().sum())
            rounding = (4 * torch.finfo(data.dtype).eps) ** 2 * float(data.square().sum())
            # where D stays as it was any factor fits
            fitted = float((change * (target - x)).sum()) / size if size > rounding else 0.0
            x = x + fitted * change
            last = f"D{k - 1}"
            ops[start + 1] = Combine("x", ((ratio, "x"), (gain + fitted, now), (-fitted, last)))
        before = data
    return replace(
        base, name=f"DDIM with learned changes of D ({base.steps} steps)", instructions=tuple(ops), order=1
    )
