"""What a network predicts, and one table of linear maps between all predictions."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .kinds import check_kind, described
from .process import Process, as_table, as_time


@dataclass(frozen=True)
class Prediction:
    """A linear combination A x_0 + B eps of data and noise; `row(process, t)` gives (A, B).

    `-FLOW` is its negative: the velocity of a clock that runs from noise to data.
    """

    name: str
    row: Callable[[Process, Tensor], tuple[Tensor, Tensor]] = field(repr=False)

    def __neg__(self) -> "Prediction":
        return (
            self.row.of if isinstance(self.row, _Negative) else Prediction(f"-{self.name}", _Negative(self))
        )

    def __reduce__(self):
        return (_named, (self.name,)) if self in PREDICTIONS else (Prediction, (self.name, self.row))


@dataclass(frozen=True)
class _Negative:
    """The row of -`of`."""

    of: Prediction

    def __call__(self, process: Process, t: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self.of.row(process, t)
        return -a, -b


def _one(t: Tensor) -> Tensor:
    return torch.ones_like(t)


NOISE = Prediction("NOISE", lambda p, t: (0 * _one(t), _one(t)))
"""eps."""
DATA = Prediction("DATA", lambda p, t: (_one(t), 0 * _one(t)))
"""x_0."""
V = Prediction("V", lambda p, t: (-p.sigma(t), p.alpha(t)))
"""v = alpha eps - sigma x_0 (Salimans and Ho 2022, arXiv 2202.00512)."""
FLOW = Prediction("FLOW", lambda p, t: (p.d_alpha(t), p.d_sigma(t)))
"""u = alpha' x_0 + sigma' eps, the velocity dx/dt."""
SCORE = Prediction("SCORE", lambda p, t: (0 * _one(t), -1 / p.sigma(t)))
"""grad log p_t = -eps / sigma."""
PREDICTIONS = (NOISE, DATA, V, FLOW, SCORE)


def _named(name: str) -> Prediction:
    return next(p for p in PREDICTIONS if p.name == name)


def conversion(
    have: Prediction, want: Prediction, process: Process, t: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Coefficients (a, b) with want = a x_t + b have, from x_t = alpha x_0 + sigma eps.

    With have = A x_0 + B eps and want = A' x_0 + B' eps:  det = alpha B - sigma A,
    a = (A' B - B' A) / det,  b = (alpha B' - sigma A') / det.

    Raises:
        ValueError: where `have` does not determine `want` (NOISE at alpha = 0, DATA at sigma = 0, SCORE at
            sigma = 0).
    """
    t = as_time(t)
    if have == want:
        return torch.zeros_like(t), torch.ones_like(t)
    if have == -want:
        return torch.zeros_like(t), -torch.ones_like(t)
    process.check_conversion(have.name, want.name)
    alpha, sigma = process.alpha(t), process.sigma(t)
    (a_have, b_have), (a_want, b_want) = have.row(process, t), want.row(process, t)
    det = alpha * b_have - sigma * a_have
    a, b = (a_want * b_have - b_want * a_have) / det, (alpha * b_want - sigma * a_want) / det
    bad = ~(torch.isfinite(a) & torch.isfinite(b))
    if bool(bad.any()):
        where = float(t[bad].flatten()[0])
        raise ValueError(
            f"a {have.name} prediction does not determine {want.name} at t={where:.6g}: got alpha="
            f"{float(process.alpha(where)):.3g}, sigma={float(process.sigma(where)):.3g}; expected both "
            "positive; end the grid inside the process, or use a network that predicts V, FLOW or "
            f"{'DATA' if have in (NOISE, SCORE) else 'NOISE'}"
        )
    return a, b


def convert(
    value: Tensor, x: Tensor, have: Prediction, want: Prediction, process: Process, t: Tensor | float
) -> Tensor:
    """`value`, a prediction of kind `have` at state `x` (B, ...) and time `t` (scalar or (B,)), as kind `want`.

    Raises:
        TypeError, ValueError: an argument of another kind, x and `value` of two shapes, x not floating point.
    """
    try:
        if isinstance(t, float | int) and not process.t_min <= t <= process.t_max:
            raise ValueError(
                f"t: got {t}, expected a time in [{process.t_min:g}, {process.t_max:g}] of {process}; pass the time "
                "that the network was called at"
            )
        if value.shape == x.shape and value.is_floating_point() and x.is_floating_point():
            a, b = (
                c.to(x).reshape(c.shape + (1,) * (x.ndim - c.ndim) if c.ndim else ())
                for c in conversion(have, want, process, t)
            )
            return a * x + b * value
    except (AttributeError, TypeError, RuntimeError):
        _refuse(value, x, have, want, process, t)
        raise
    raise ValueError(
        f"value: got {described(value)}, expected floating point numbers in the shape of x, {described(x)}; pass both "
        "of one batch"
    )


def _refuse(value: Any, x: Any, have: Any, want: Any, process: Any, t: Any) -> None:
    """Raise TypeError or ValueError for what `convert` failed at: looked for only then, since networks call it."""
    for name, tensor in (("value", value), ("x", x)):
        check_kind(name, tensor, Tensor, "a tensor (B, ...); torch.as_tensor(...) makes one")
        if tensor.is_meta:
            raise ValueError(
                f"{name}: got a tensor on meta, expected numbers; move it to the network's device"
            )
    for name, kind in (("have", have), ("want", want)):
        check_kind(
            name, kind, Prediction, "one of NOISE, DATA, V, FLOW, SCORE; import it from pullback.solvers"
        )
    check_kind("process", process, Process, "a Process such as VP(); pass denoiser.process")
    times = as_table("t", t, "a number or a tensor (B,); pass the time that the network was called at")
    if times.numel() not in (1, len(x)):
        raise ValueError(
            f"t: got {times.numel()} times, expected one, or one for each of {len(x)} samples; pass those of the batch"
        )
