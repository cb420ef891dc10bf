"""The plain loops: samplers from their formulas, with alpha and sigma written out here. Nothing of the library runs."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pullback.solvers import (
    DATA,
    DDIM,
    FLOW,
    NOISE,
    SCORE,
    VP,
    Combine,
    DPMSolverPP,
    EDMHeun,
    Evaluate,
    FlowHeun,
    Method,
    Plan,
    Prediction,
    Process,
    RectifiedFlow,
    V,
)

Numbers = Tensor  # (), or (B,): one for each sample


def clock(process: Process, t: Tensor) -> tuple[Tensor, Tensor]:
    """(alpha, sigma) at t, float64."""
    if isinstance(process, RectifiedFlow):
        return 1 - t, t
    assert process == VP()
    log_alpha = -19.9 / 4 * t * t - 0.1 / 2 * t
    return log_alpha.exp(), (1 - (2 * log_alpha).exp()).sqrt()


def as_data(have: Prediction, out: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """x_0 from x = alpha x_0 + sigma eps and what the network says."""
    if have == DATA:
        return out
    if have == NOISE:
        return (x - sigma * out) / alpha
    if have == SCORE:
        return (x + sigma * sigma * out) / alpha
    if have == V:  # alpha eps - sigma x_0, alpha^2 + sigma^2 = 1
        return alpha * x - sigma * out
    assert have == FLOW  # eps - x_0 on alpha = 1 - sigma
    return x - sigma * out


@dataclass
class Loop:
    """What a plain loop works with.

    Attributes:
        predict: (x, t (B,), step) -> the network's output, guidance and conditioning included.
        opens: (step, x) -> x with the control of the step; called when it opens.
        noise: slot -> unit noise.
    """

    process: Process
    prediction: Prediction
    times: Tensor
    predict: Callable[[Tensor, Tensor, int], Tensor]
    opens: Callable[[int, Tensor], Tensor]
    noise: Callable[[int], Tensor]

    def at(self, k: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, sigma) of node k as they multiply x."""
        return self.spread(clock(self.process, self.times[k]), x)

    @staticmethod
    def spread(pair: Sequence[Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        first, second = (c.to(x).reshape(-1, *(1,) * (x.ndim - 1)) for c in pair)
        return first, second

    def data(self, x: Tensor, t: Tensor, step: int) -> Tensor:
        out = self.predict(x, t.to(x).expand(len(x)), step)
        return as_data(self.prediction, out, x, *self.spread(clock(self.process, t), x))


class Formula(ABC):
    """A sampler: the library's method, and what its paper says in a loop."""

    method: Method

    @abstractmethod
    def run(self, loop: Loop, x: Tensor, cut: int) -> Tensor:
        """The sample; what comes before step `cut` has no graph."""


def detached(k: int, cut: int, *values: Any) -> Any:
    return tuple(v.detach() if isinstance(v, Tensor) and 0 < k == cut else v for v in values)


@dataclass(frozen=True)
class Ancestral(Formula):
    """x <- alpha_t D + sqrt(sigma_t^2 - sd^2) (x - alpha_s D)/sigma_s + sd xi."""

    eta: float = 0.0

    @property
    def method(self) -> Method:  # type: ignore[override]
        return DDIM(self.eta)

    def run(self, loop: Loop, x: Tensor, cut: int) -> Tensor:
        for k in range(len(loop.times) - 1):
            with torch.set_grad_enabled(k >= cut and torch.is_grad_enabled()):
                (x,) = detached(k, cut, x)
                x = loop.opens(k, x)
                (a, s), (a1, s1) = loop.at(k, x), loop.at(k + 1, x)
                data = loop.data(x, loop.times[k], k)
                sd = self.eta * s1 * (1 - (a * s1 / (a1 * s)) ** 2).clamp_min(0).sqrt()
                x = a1 * data + (s1 * s1 - sd * sd).sqrt() * (x - a * data) / s
                if self.eta:
                    x = x + sd * loop.noise(k)
        return x


@dataclass(frozen=True)
class TwoM(Formula):
    """DPM-Solver++(2M): D_k + (D_k - D_{k-1}) h_k / (2 h_{k-1}) in place of D_k."""

    method: Method = DPMSolverPP(2)

    def run(self, loop: Loop, x: Tensor, cut: int) -> Tensor:
        before, width = None, None
        for k in range(len(loop.times) - 1):
            with torch.set_grad_enabled(k >= cut and torch.is_grad_enabled()):
                x, before = detached(k, cut, x, before)
                x = loop.opens(k, x)
                (a, s), (a1, s1) = loop.at(k, x), loop.at(k + 1, x)
                h = (a1 * s / (s1 * a)).log()
                data = loop.data(x, loop.times[k], k)
                blend = data
                if before is not None and width is not None:
                    blend = data + h / (2 * width) * (data - before)
                x = s1 / s * x - a1 * torch.expm1(-h) * blend
                before, width = data, h
        return x


@dataclass(frozen=True)
class Heun(Formula):
    """Heun's rule on dy/drho = eps, y = x/alpha, rho = sigma/alpha."""

    method: Method = EDMHeun()

    def run(self, loop: Loop, x: Tensor, cut: int) -> Tensor:
        for k in range(len(loop.times) - 1):
            with torch.set_grad_enabled(k >= cut and torch.is_grad_enabled()):
                (x,) = detached(k, cut, x)
                x = loop.opens(k, x)
                (a, s), (a1, s1) = loop.at(k, x), loop.at(k + 1, x)
                first = (x - a * loop.data(x, loop.times[k], k)) / s
                step = s1 / a1 - s / a
                euler = a1 * (x / a + step * first)
                second = (euler - a1 * loop.data(euler, loop.times[k + 1], k)) / s1
                x = a1 * (x / a + step * (first + second) / 2)
        return x


@dataclass(frozen=True)
class FlowTwice(Formula):
    """Heun's rule on dx/dt = eps - x_0, on alpha = 1 - t, sigma = t."""

    method: Method = FlowHeun()

    def run(self, loop: Loop, x: Tensor, cut: int) -> Tensor:
        def slope(x: Tensor, k: int, step: int) -> Tensor:
            if loop.prediction == FLOW:
                return loop.predict(x, loop.times[k].to(x).expand(len(x)), step)
            return (x - loop.data(x, loop.times[k], step)) / loop.at(k, x)[1]

        for k in range(len(loop.times) - 1):
            with torch.set_grad_enabled(k >= cut and torch.is_grad_enabled()):
                (x,) = detached(k, cut, x)
                x = loop.opens(k, x)
                h = loop.at(k + 1, x)[1] - loop.at(k, x)[1]
                first = slope(x, k, k)
                x = x + h / 2 * (first + slope(x + h * first, k + 1, k))
        return x


FORMULAS: tuple[Formula, ...] = (Ancestral(), Ancestral(0.6), TwoM(), Heun(), FlowTwice())


def by_numbers(
    plan: Plan,
    loop: Loop,
    registers: dict[str, Tensor],
    cut: int = 0,
    numbers: Sequence[Tensor] | None = None,
) -> Tensor:
    """Any plan, its instructions taken one by one: where the numbers themselves stand under other laws.

    `numbers`: those that `coefficients(plan, model)` lists, with a graph, in place of the plan's own.
    """
    live, rest = dict(registers), iter(numbers) if numbers is not None else None
    x = live["x"]
    opening, step = {s: k for k, s in enumerate(plan.starts)}, 0
    for k, op in enumerate(plan.instructions):
        if k in opening:
            step = opening[k]
            if step == cut:
                live = {name: value.detach() for name, value in live.items()} if cut else live
            live["x"] = loop.opens(step, live["x"])
        with torch.set_grad_enabled(step >= cut and torch.is_grad_enabled()):
            if isinstance(op, Evaluate):
                state = live[op.src]
                if rest is None:
                    live[op.outs[0]] = _wanted(
                        op.want, loop, state, torch.as_tensor(op.t, dtype=torch.float64), step
                    )
                else:
                    t, a, b = (next(rest).to(x) for _ in range(3))
                    live[op.outs[0]] = a * state + b * loop.predict(state, t.expand(len(state)), step)
            elif isinstance(op, Combine):
                parts: list[tuple[Any, Tensor]] = [(c, live[name]) for c, name in op.terms]
                parts += [(c, loop.noise(slot)) for c, slot in op.noise]
                scaled = [(c if rest is None else next(rest).to(x)) * value for c, value in parts]
                live[op.out] = torch.stack(scaled).sum(0)
    return live["x"]


def _wanted(want: Prediction, loop: Loop, x: Tensor, t: Tensor, step: int) -> Tensor:
    """The prediction that a plan asks for, from the data prediction."""
    alpha, sigma = loop.spread(clock(loop.process, t), x)
    data = loop.data(x, t, step)
    if want == DATA:
        return data
    eps = (x - alpha * data) / sigma
    if want == NOISE:
        return eps
    if want == SCORE:
        return -eps / sigma
    if want == V:
        return alpha * eps - sigma * data
    assert isinstance(loop.process, RectifiedFlow) and want == FLOW
    return eps - data
