"""A path as the noise of a plan: slot by slot the unit increments of one Brownian motion along the plan's nodes."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .broadcast import per_sample
from .instructions import Combine
from .noise import Noise
from .plan import Plan

_Point = float | tuple[float, ...]  # of the path's coordinate, one for all samples or one for each


@dataclass(frozen=True)
class Exponential:
    """The clock e^{2 rate lambda}/(2 rate), or lambda where rate = 0: that of W = INT e^{rate u} dB_u, B
    Brownian in lambda.

    In z = x/sigma the reverse SDE of strength tau is dz = (-tau^2 z + (1 + tau^2) e^lambda D) dlambda +
    sqrt(2) tau dB. Its step with the prediction held fixed adds exactly the unit increment xi of W over
    [lambda_s, lambda_t], times a number:

        D fixed:           sigma_t sqrt(1 - e^{-2 tau^2 h}) xi,  rate = tau^2: e^{2 lambda} = alpha^2/sigma^2 at tau = 1
        E fixed, tau = 1:  sigma_t sqrt(e^{2h} - 1) xi,          rate = -1:    -sigma^2/alpha^2

    rate 1: DDPM, DDIM(eta=1), SDEDPMSolverPP; tau^2: SASolver; -1: SDEDPMSolver; power - 1: ERSDE(phi=power).
    Any other smooth clock also gives strong order 1, with a larger error.
    """

    rate: float = 1.0

    def __call__(self, lam: float) -> float:
        return math.exp(2 * self.rate * lam) / (2 * self.rate) if self.rate else lam


class Path(ABC):
    """A Brownian motion W of which increments can be asked for, in any order and any number of times."""

    @abstractmethod
    def __call__(self, start: float, stop: float, like: Tensor) -> Tensor:
        """W(stop) - W(start) in the shape (B, ...), dtype and device of `like`."""

    @abstractmethod
    def width(self, start: float, stop: float) -> float:
        """Its variance; raises ValueError where the path does not reach."""

    @abstractmethod
    def check(self, like: Tensor) -> None:
        """Raise ValueError if the path cannot serve states like `like`."""

    def within(self, low: float, high: float) -> float:
        """A point in [low, high], the one that is asked for at least cost, for whoever is free to choose its nodes."""
        return high

    def each(self, starts: Sequence[float], stops: Sequence[float], like: Tensor) -> Tensor:
        """W(stops[b]) - W(starts[b]) of every sample b, zero where its ends are one point."""
        whole = {
            ends: self(*ends, like) for ends in set(zip(starts, stops, strict=True)) if ends[0] != ends[1]
        }
        rows = [
            whole[ends][k] if ends in whole else torch.zeros_like(like[k])
            for k, ends in enumerate(zip(starts, stops, strict=True))
        ]
        return torch.stack(rows) if rows else torch.zeros_like(like)

    def on(self, plan: Plan, coordinate: Callable[[float], float] | None = None) -> "PathNoise":
        """The noise of `plan` along this path: slot of step i <- (W(u_{i+1}) - W(u_i)) / sqrt(width), u_i =
        coordinate(lambda_i). With a grid for each sample every sample has its own increments; those of steps
        without length are 0.

        Plans of one method on other grids then see one path: they converge to each other under refinement, at
        strong order 1, which with `Addressed` they do not.

        Args:
            plan: with at most one draw a step.
            coordinate: increasing; default lambda itself. Where a step with noise starts at alpha = 0 lambda
                is infinite: take -t, `lambda lam: -float(process.time(lam))`, for the path's coordinate, with
                a clock of -t.

        Raises:
            ValueError: two draws in a step (they are not increments of the step), nodes off the path.
        """
        lam = (
            plan.process.lam(torch.tensor(plan.times, dtype=torch.float64))
            .reshape(plan.steps + 1, -1)
            .tolist()
        )
        ends: dict[int, tuple[_Point, _Point]] = {}
        for i in range(plan.steps):
            slots = {slot for op in plan.step(i) if isinstance(op, Combine) for _, slot in op.noise}
            if len(slots) > 1:
                raise ValueError(
                    f"{plan.name}: got {len(slots)} draws in step {i}, expected one, its increment; use "
                    "Addressed"
                )
            for slot in slots:
                pairs = [
                    self._interval(plan, i, both, coordinate) for both in zip(*lam[i : i + 2], strict=True)
                ]
                starts, stops = zip(*pairs, strict=True)
                ends[slot] = (starts[0], stops[0]) if plan.batch is None else (starts, stops)
        if sorted(ends) != list(range(plan.slots)):
            raise ValueError(
                f"{plan.name}: got a plan that draws slots {min(ends)} to {max(ends)}, expected slots from 0; "
                "call on(plan) with the plan that this one was split from, and use its noise"
            )
        return PathNoise(self, tuple(ends[slot] for slot in range(plan.slots)))

    def _interval(
        self, plan: Plan, i: int, lam: tuple[float, float], coordinate: Callable[[float], float] | None
    ) -> tuple[float, float]:
        """The path's coordinates at both ends of step i. Raises ValueError where it does not reach."""
        start, stop = lam if coordinate is None else (coordinate(lam[0]), coordinate(lam[1]))
        if not (math.isfinite(start) and math.isfinite(stop)):
            raise ValueError(
                f"{plan.name}: got lambda {lam[0]} to {lam[1]} in step {i}, expected finite "
                "ends; pass a coordinate that is finite there, such as -t"
            )
        if start != stop:
            self.width(start, stop)
        return start, stop


@dataclass(frozen=True)
class PathNoise(Noise):
    """Unit increments of `path`: those over `ends[slot]`, (start, stop), numbers for all samples or one for each."""

    path: Path
    ends: tuple[tuple[_Point, _Point], ...]

    def check(self, slots: int, like: Tensor) -> None:
        if slots > len(self.ends):
            raise ValueError(
                f"noise: got a path on a plan of {len(self.ends)} slots, expected {slots}; call on(plan) for "
                "this one"
            )
        self.path.check(like)

    def __call__(self, slot: int, like: Tensor) -> Tensor:
        start, stop = self.ends[slot]
        if isinstance(start, tuple) and isinstance(stop, tuple):
            widths = [self._width(*both) for both in zip(start, stop, strict=True)]
            scale = torch.tensor(widths, dtype=torch.float64, device=like.device).rsqrt()
            return self.path.each(start, stop, like) * per_sample(scale.to(like), like)
        assert isinstance(start, float) and isinstance(stop, float)
        if start == stop:
            return torch.zeros_like(like)
        return self.path(start, stop, like) / math.sqrt(self.path.width(start, stop))

    def _width(self, start: float, stop: float) -> float:
        return self.path.width(start, stop) if start != stop else 1.0


@dataclass(frozen=True, eq=False)
class FromTorchSDE(Path):
    """A path held by another library: `interval(ta, tb)` gives W(tb) - W(ta), ta < tb, for one batch, as
    torchsde's BrownianInterval and BrownianTree do; nothing is imported.

    Args:
        interval: over times [clock(low), clock(high)] at least; torchsde only warns, and clips, outside its
            own.
        clock: from the coordinate (lambda, for `on(plan)`) to the interval's time.
    """

    interval: Callable[[Any, Any], Tensor]
    clock: Callable[[float], float] = Exponential(1.0)

    def __call__(self, start: float, stop: float, like: Tensor) -> Tensor:
        value = self.interval(self.clock(start), self.clock(stop))
        if value.shape != like.shape:
            raise ValueError(
                f"FromTorchSDE: got increments of shape {tuple(value.shape)}, expected the state's "
                f"{tuple(like.shape)}; build the interval with size= of the batch"
            )
        return value.to(like)

    def width(self, start: float, stop: float) -> float:
        width = self.clock(stop) - self.clock(start)
        if not 0 < width < math.inf:
            raise ValueError(
                f"FromTorchSDE: got clock {self.clock(start)} then {self.clock(stop)}, expected it to "
                "increase; pass an increasing clock"
            )
        return width

    def check(self, like: Tensor) -> None:
        pass
