"""A path as the noise of a plan: slot by slot the unit increments of one Brownian motion along the plan's nodes."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .instructions import Combine
from .noise import Noise
from .plan import Plan


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

    def on(self, plan: Plan, coordinate: Callable[[float], float] | None = None) -> "PathNoise":
        """The noise of `plan` along this path: slot of step i <- (W(u_{i+1}) - W(u_i)) / sqrt(width), u_i =
        coordinate(lambda_i).

        Plans of one method on other grids then see one path: they converge to each other under refinement, at
        strong order 1, which with `Addressed` they do not.

        Args:
            plan: with at most one draw a step.
            coordinate: increasing; default lambda itself. Where a step with noise starts at alpha = 0 lambda
                is infinite: take -t, `lambda lam: -float(process.time(lam))`, for the path's coordinate, with
                a clock of -t.

        Raises:
            ValueError: two draws in a step (they are not increments of the step), a stacked plan, nodes off
                the path.
        """
        if plan.batch is not None:
            raise ValueError(
                f"{plan.name}: got a stacked plan, expected one grid; sample each sample's grid apart"
            )
        lam = [float(plan.process.lam(t)) for t in plan.times if isinstance(t, float)]
        ends: dict[int, tuple[float, float]] = {}
        for i in range(plan.steps):
            slots = {slot for op in plan.step(i) if isinstance(op, Combine) for _, slot in op.noise}
            if len(slots) > 1:
                raise ValueError(
                    f"{plan.name}: got {len(slots)} draws in step {i}, expected one, its increment; use "
                    "Addressed"
                )
            for slot in slots:
                pair = [v if coordinate is None else coordinate(v) for v in lam[i : i + 2]]
                if not all(math.isfinite(u) for u in pair):
                    raise ValueError(
                        f"{plan.name}: got lambda {lam[i]} to {lam[i + 1]} in step {i}, expected finite "
                        "ends; pass a coordinate that is finite there, such as -t"
                    )
                self.width(pair[0], pair[1])
                ends[slot] = (pair[0], pair[1])
        if sorted(ends) != list(range(plan.slots)):
            raise ValueError(
                f"{plan.name}: got a plan that draws slots {min(ends)} to {max(ends)}, expected slots from 0; "
                "call on(plan) with the plan that this one was split from, and use its noise"
            )
        return PathNoise(self, tuple(ends[slot] for slot in range(plan.slots)))


@dataclass(frozen=True)
class PathNoise(Noise):
    """Unit increments of `path`: those over `ends[slot]`."""

    path: Path
    ends: tuple[tuple[float, float], ...]

    def check(self, slots: int, like: Tensor) -> None:
        if slots > len(self.ends):
            raise ValueError(
                f"noise: got a path on a plan of {len(self.ends)} slots, expected {slots}; call on(plan) for "
                "this one"
            )
        self.path.check(like)

    def __call__(self, slot: int, like: Tensor) -> Tensor:
        start, stop = self.ends[slot]
        return self.path(start, stop, like) / math.sqrt(self.path.width(start, stop))


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
