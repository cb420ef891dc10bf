"""Levels: one sampler on coarser and finer grids."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import torch

from ...solvers import Addressed, Brownian, Exponential, Grid, Method, Noise, Plan, Process
from ...solvers.brownian import BROWNIAN
from ...solvers.checked import CheckedFields
from ...solvers.wanted import Wanted
from .allocation import Allocation
from .draws import LevelDraws, StratifiedDraws

StepCounts = Annotated[
    Sequence[int],
    Wanted(
        "whole numbers of steps, coarsest first; write (5, 20, 100)",
        lambda value: isinstance(value, list | tuple) and all(isinstance(n, int) for n in value),
    ),
]
DEPTH = 20  # halvings of a step of the finest listed grid that a path has room for


@dataclass(frozen=True)
class GridLevels(CheckedFields):
    """`method` on grids of steps[0] < steps[1] < ... steps, the levels 0, 1, ..., and how samples are spread over them.

    Unbiased for the plan of steps[-1] steps; with `allocation.beyond` > 0, where grids go on doubling, for the limit
    of infinitely many. That asks, for the differences' second moments that fall by 2^-beta a doubling:

        beta > 1,  2^-beta < beyond < 1/2.

    beta is 2p for the gradient of a method of order p without noise, 2 with noise (strong order 1), as far as the
    network is smooth: here the nominal beta is asked for, `Pilot` measures it.

    Args:
        process: the model's.
        grid: of any number of steps n, which each level replaces: `UniformLambda(100, start=1.0, end=0.03)`.
        steps: of each level, rising.
        allocation: of as many levels. draws: how each sample gets its own.
        clock: of the Brownian path that all levels of a sample share, where the method draws noise: `Exponential` says
            which suits which method. It changes the variance, no expectation.

    Raises:
        ValueError: steps that do not rise, an allocation of another number of levels or whose work or variance is
            infinite, a grid without a number of steps or for each sample.
    """

    method: Method
    process: Process
    grid: Grid
    steps: StepCounts
    allocation: Allocation
    draws: LevelDraws = StratifiedDraws()
    clock: Exponential = Exponential(1.0)
    _plans: dict[int, Plan] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(self.steps))
        rises = all(a < b for a, b in zip(self.steps, self.steps[1:], strict=False))
        if not self.steps or self.steps[0] < 1 or not rises:
            raise ValueError(
                f"GridLevels: got steps={self.steps}, expected numbers >= 1 that rise, coarsest first; sort them and "
                "drop duplicates"
            )
        if self.allocation.depth != len(self.steps):
            raise ValueError(
                f"GridLevels: got {self.allocation} for steps={self.steps}, expected one number for each of "
                f"{len(self.steps)} levels; measured_levels finds them"
            )
        if not hasattr(self.grid, "n"):
            raise ValueError(
                f"GridLevels: got {self.grid}, expected a grid of any number of steps; write UniformLambda(20, "
                "start=..., end=...), or a Grid of your own with a field n"
            )
        low, beyond = 2.0**-self.nominal, self.allocation.beyond
        if beyond and not low < beyond < 0.5:
            raise ValueError(
                f"GridLevels: got beyond={beyond}, expected between {low:.4g} and 0.5 for {self.method}: below it the "
                f"variance is infinite, above it the work is; take {(low / 2) ** 0.5:.4g}, or 0 for the finest level"
            )

    def plan(self, level: int) -> Plan:
        """The sampler of `level`; past those listed, of twice the steps of the level before it."""
        if level not in self._plans:
            past = level - len(self.steps) + 1
            steps = self.steps[level] if past <= 0 else self.steps[-1] << past
            grid: Any = self.grid
            plan = self.method.plan(self.process, replace(grid, n=steps))
            if plan.batch is not None:
                raise ValueError(
                    f"GridLevels: got a grid for each of {plan.batch} samples, expected one for all; samples of a "
                    "batch go to different levels"
                )
            self._plans[level] = plan
        return self._plans[level]

    def noise(self, source: Addressed, samples: tuple[int, ...], level: int) -> Noise | None:
        """What `samples`, by their ids, draw on `level`: increments of the path that each has for all levels. None
        where the method draws none.
        """
        plan = self.plan(level)
        if not plan.slots:
            return None
        finest = self.plan(len(self.steps) - 1)
        finest.check_falls("GridLevels")
        lam = finest.process.lam(torch.tensor(finest.times, dtype=torch.float64)).tolist()
        if not all(math.isfinite(u) for u in lam):
            raise ValueError(
                f"GridLevels: got lambda {lam[0]:.4g} to {lam[-1]:.4g} at the ends of {self.grid}, expected finite "
                "ends where noise is drawn; pass start= and end= inside the process"
            )
        turned = _InSteps(tuple(lam))
        path = Brownian(
            source.seed,
            0.0,
            float(len(lam) - 1),
            _Clock(turned, self.clock),
            samples,
            BROWNIAN - source.stream,
            cells=len(lam) - 1,
            depth=DEPTH,
            on_cpu=source.on_cpu,
        )
        return path.on(plan, turned)

    @property
    def nominal(self) -> float:
        """beta by the method's order: strong order 1 where it draws noise."""
        return 2.0 if self.method.stochastic else 2.0 * self.method.order

    @property
    def nfe(self) -> float:
        """Network calls expected for one sample."""
        listed = len(self.steps)
        found = sum(self.allocation.runs(level) * self.plan(level).nfe for level in range(listed))
        # past those listed runs fall by `beyond` and calls double from each level to the next
        past = self.allocation.runs(listed) * self.plan(listed).nfe if self.allocation.beyond else 0.0
        return found + past / (1 - 2 * self.allocation.beyond)


@dataclass(frozen=True)
class _InSteps:
    """lambda counted in steps of the finest listed grid: in this coordinate its nodes, and those of every grid among
    them, are points of a path's tree, where an increment costs one draw.
    """

    lam: tuple[float, ...]

    def __call__(self, lam: float) -> float:
        k = min(max(bisect_right(self.lam, lam) - 1, 0), len(self.lam) - 2)
        return k + (lam - self.lam[k]) / (self.lam[k + 1] - self.lam[k])

    def back(self, place: float) -> float:
        k = min(int(place), len(self.lam) - 2)
        return self.lam[k] + (place - k) * (self.lam[k + 1] - self.lam[k])


@dataclass(frozen=True)
class _Clock:
    """`clock`, a function of lambda, as one of the path's coordinate."""

    turned: _InSteps
    clock: Exponential

    def __call__(self, place: float) -> float:
        return self.clock(self.turned.back(place))
