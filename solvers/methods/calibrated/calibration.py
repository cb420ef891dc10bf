"""The statistics of a model that DPM-Solver-v3 samples with, measured on data."""

import math
from typing import Any

import torch
from torch import Tensor

from ...checked import checked
from ...model import Model
from ...noise import Addressed
from ...opening import carried
from ...prediction import DATA, conversion
from ...wanted import Count, Finite, Samples, Whole
from .natural_spline import NaturalSpline
from .v3_statistics import ModelStatistics

_STEP = (
    1e-4  # in lambda, of central differences of the process' own functions: float64, so 1e-9 of them is lost
)


@checked
def model_statistics(
    model: Model,
    data: Samples,
    *,
    start: Finite,
    end: Finite,
    knots: Count = 60,
    cond: Any = None,
    seed: Whole = 0,
) -> ModelStatistics:
    """l, s and b of `model` for every element, at `knots` lambdas from time `start` to `end`, uniform in lambda.

    With y = x/alpha, x = alpha x_0 + sigma eps for the samples x_0 of `data` and means over the batch,

        l = 1 - alpha mean_B diag(dD/dx)            sigma dE/dx, which (1 - l) y - D =: F has least of
        s = Cov(F, F')/Var(F),  b = mean F' - s mean F      F' along the flow: regressed on F, element by element

    The diagonal is v (dD/dx)^T v with a random sign v for each element and sample (Hutchinson), F' takes one JVP.
    Where F does not vary over the batch s is 0.

    Args:
        data: (B, ...) samples of the data, or of the model; the mean over B has noise of 1/sqrt(B).
        start, end: times between which will be sampled, in either order, with finite lambda.
        cond: conditioning, the same for all knots.
        seed: of noise and signs.

    Raises:
        ValueError: an infinite lambda at an end, or both the same. RuntimeError: a network without a JVP
            (torch.func.jvp), which names the operation.
    Source: Zheng et al. 2023, arXiv 2310.13268, section 3.1; in D for E here. Cost: 3 network calls' worth a knot
    forwards and 1 VJP; run it once for a model and keep the result, which pickles.
    """
    process = model.process
    ends = sorted(float(process.lam(torch.tensor(t, dtype=torch.float64))) for t in (start, end))
    if not all(map(math.isfinite, ends)) or ends[0] == ends[1]:
        raise ValueError(
            f"model_statistics: got lambda {ends[0]:g} and {ends[1]:g} at its ends, expected two finite ones; "
            "start and end where alpha and sigma are positive"
        )
    if not len(data):
        raise ValueError("data: got an empty batch, expected samples to take means over; pass one at least")
    lam = torch.linspace(ends[0], ends[1], max(knots, 2), dtype=torch.float64)
    model.check_times(process.time(lam))
    data = carried(data)
    levels = [_Knot(model, data, cond, float(u), seed, k) for k, u in enumerate(lam)]
    l = torch.stack([knot.level() for knot in levels])  # noqa: E741  (the paper's name)
    bend = torch.from_numpy(NaturalSpline(lam.numpy(), l.numpy()).slope())
    found = [_regressed(*knot.along_the_flow(l[k], bend[k])) for k, knot in enumerate(levels)]
    s, b = (torch.stack(each) for each in zip(*found, strict=True))
    return ModelStatistics(lam, l, s, b)


class _Knot:
    """A model at one lambda, with what is needed of the process there."""

    def __init__(self, model: Model, data: Tensor, cond: Any, lam: float, seed: int, index: int) -> None:
        self.model, self.data, self.cond, self.seed, self.index = model, data, cond, seed, index
        around = [self._scalars(lam + step) for step in (-_STEP, 0.0, _STEP)]
        (self.t, log_alpha, self.a, self.b), (before, _, after) = around[1], around
        self.rates = [(z - y) / (2 * _STEP) for y, z in zip(before, after, strict=True)]
        self.alpha, self.sigma = math.exp(log_alpha), math.exp(log_alpha - lam)

    def _scalars(self, lam: float) -> tuple[float, float, float, float]:
        """t, log alpha, and a, b of D = a x + b H, H the model's own prediction."""
        process = self.model.process
        t = process.time(lam)
        a, b = conversion(self.model.prediction, DATA, process, t)
        return float(t), float(process.log_alpha(t)), float(a), float(b)

    def _state(self) -> Tensor:
        return self.alpha * self.data + self.sigma * Addressed(self.seed)(2 * self.index, self.data)

    def _times(self, t: float) -> Tensor:
        return torch.full((len(self.data),), t, dtype=self.data.dtype, device=self.data.device)

    def level(self) -> Tensor:
        """l, (...)."""
        with torch.enable_grad():
            x = self._state().requires_grad_()
            sign = Addressed(self.seed)(2 * self.index + 1, x).sign().detach()
            data = self.a * x + self.b * self.model(x, self._times(self.t), self.cond)
            (back,) = torch.autograd.grad(data, x, sign)
        return 1 - self.alpha * (sign * back).double().mean(0).cpu()

    def along_the_flow(self, level: Tensor, bend: Tensor) -> tuple[Tensor, Tensor]:
        """F and F', (B, ...), where l has the value `level` and the slope `bend`."""
        to_time, to_log_alpha, to_a, to_b = self.rates
        with torch.no_grad():
            x, t = self._state(), self._times(self.t)
            data = self.a * x + self.b * self.model(x, t, self.cond)
            flow = (to_log_alpha - 1) * x + self.alpha * data  # dx/dlambda
            own, change, *_ = torch.func.jvp(
                lambda x, t: self.model(x, t, self.cond), (x, t), (flow, self._times(to_time))
            )
        turned = to_a * x + self.a * flow + to_b * own + self.b * change  # D'
        y, data, turned = ((v.double().cpu()) for v in (x / self.alpha, data, turned))
        return (1 - level) * y - data, -bend * y + (1 - level) * (data - y) - turned


def _regressed(value: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
    """(s, b) of change = s value + b, least squares over the batch."""
    centre, drift = value.mean(0), change.mean(0)
    spread = (value - centre).square().mean(0)
    varies = spread > 1e-10 * value.square().mean(0)
    s = torch.where(varies, ((value - centre) * (change - drift)).mean(0) / spread.where(varies, 1.0), 0.0)
    return s, drift - s * centre
