"""Times chosen by an error estimate, to be frozen into a plan."""

import math
from typing import Any

import torch
from torch import Tensor

from ..checked import checked
from ..model import Model
from ..prediction import DATA, conversion
from ..wanted import Count, Finite, NonNegative, Positive, Samples


@checked
def accepted_times(
    model: Model,
    x: Samples,
    start: Finite,
    end: Finite,
    *,
    rtol: NonNegative = 1e-2,
    atol: Positive = 1e-2,
    cond: Any = None,
    first: Positive = 0.1,
    most: Count = 1000,
) -> Tensor:
    """(N+1,) float64 times that an adaptive exponential Heun 2(1) accepts from `start` to `end`.

    Steps in lambda; the error of a step is the second-order correction, as root mean square over each sample
    in units of atol + rtol |x|, the worst sample deciding. Freeze the times into any method's plan: the way
    back, and every replay, then takes the very same steps, which a solver that chooses its steps anew does
    not.

    Args:
        start, end: finite lambda at both; falling or rising.
        first: first step in lambda. most: bound on attempts.

    Raises:
        ValueError: an infinite end. RuntimeError: more than `most` attempts.
    Cost: 2 network calls an attempt.
    """
    with torch.no_grad():
        return _search(model, x, start, end, rtol, atol, cond, first, most)


def _search(
    model: Model,
    x: Tensor,
    start: float,
    end: float,
    rtol: float,
    atol: float,
    cond: Any,
    first: float,
    most: int,
) -> Tensor:
    process = model.process
    for t in (start, end):
        if not process.t_min <= t <= process.t_max:
            raise ValueError(
                f"accepted_times: got t={t:g}, expected start and end in [{process.t_min:g}, {process.t_max:g}] of "
                f"{process}; move it there"
            )
    ends = [float(process.lam(torch.tensor(t, dtype=torch.float64))) for t in (start, end)]
    if not all(map(math.isfinite, ends)) or ends[0] == ends[1]:
        raise ValueError(
            f"accepted_times: got lambda {ends[0]:g} at t={start:g} and {ends[1]:g} at t={end:g}, "
            "expected two different finite ones; start and end where alpha and sigma are positive"
        )

    def data(state: Tensor, t: float) -> Tensor:
        a, b = (float(c) for c in conversion(model.prediction, DATA, process, t))
        return a * state + b * model(
            state, torch.full((len(state),), t, dtype=state.dtype, device=state.device), cond
        )

    def at(lam: float) -> tuple[float, float, float]:
        t = torch.as_tensor(process.time(lam), dtype=torch.float64)
        return float(t), float(process.alpha(t)), float(process.sigma(t))

    lam, sign, times = ends[0], math.copysign(1.0, ends[1] - ends[0]), [start]
    h, (t, _, sigma), here = sign * first, at(ends[0]), None
    for _ in range(most):
        h = sign * min(abs(h), abs(ends[1] - lam))
        here = data(x, t) if here is None else here
        t_new, alpha_new, sigma_new = at(lam + h)
        euler = sigma_new / sigma * x - alpha_new * math.expm1(-h) * here
        ahead = data(euler, t_new)
        correction = alpha_new * (1 + math.expm1(-h) / h) * (ahead - here)  # alpha_t h phi_2(-h) (D_t - D_s)
        scale = atol + rtol * torch.maximum(x.abs(), euler.abs())
        error = float((correction / scale).square().flatten(1).mean(1).sqrt().max())
        if not math.isfinite(error):
            raise FloatingPointError(
                f"accepted_times: got NaN or infinity at t={t_new:.4g}, expected finite values; check x, "
                "and the network there"
            )
        if error <= 1:
            x, lam, t, sigma, here = euler + correction, lam + h, t_new, sigma_new, None
            times.append(end if lam == ends[1] or abs(lam - ends[1]) < 1e-12 else t)
            if times[-1] == end:
                return torch.tensor(times, dtype=torch.float64)
        h *= min(3.0, max(0.2, 0.9 / math.sqrt(max(error, 1e-12))))
    raise RuntimeError(
        f"accepted_times: got {most} attempts at t={t:.4g}, expected the end t={end:g} before; loosen rtol "
        "and atol"
    )
