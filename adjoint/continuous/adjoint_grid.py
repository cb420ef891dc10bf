"""AdjointGrid: the nodes of an adjoint beside those of the run it differentiates."""

from array import array
from bisect import bisect_right
from collections.abc import MutableSequence, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import neg

import numpy as np
import torch

from ...solvers import Plan, Process


@dataclass(frozen=True, eq=False)
class AdjointGrid:
    """Where an adjoint evaluates the network: at the nodes of the run, at some of them, or between them.

    Attributes:
        begin: the plan's step that the run begins with: a truncated one starts later.
        times: of the run's nodes, from `begin` on.
        at: of the adjoint's nodes.
        index: the places of `at` among `times`; None where there are more than the run has.
        clock, own_clock: atan(sigma/alpha) at `at` and at `times`, on a rising grid with the other sign: it falls.
    """

    begin: int
    times: list[float]
    at: list[float]
    index: Sequence[int] | None
    clock: MutableSequence[float]
    own_clock: MutableSequence[float]

    @classmethod
    def over(cls, plan: Plan, begin: int, steps: int | None) -> "AdjointGrid":
        """`steps` intervals over the run of `plan` from step `begin` on; by default the run's own.

        Raises:
            ValueError: a grid for each sample, or one that neither falls nor rises throughout.
        """
        times = [float(t) for t in plan.times[begin:] if not isinstance(t, tuple)]
        if len(times) != plan.steps - begin + 1:
            raise ValueError(
                f"a continuous adjoint: got a plan with one grid for each of {plan.batch} samples, expected "
                "one grid; use Checkpoint()"
            )
        signs = {(later > sooner) - (later < sooner) for sooner, later in pairwise(times)}
        if signs not in ({1}, {-1}):
            raise ValueError(
                f"a continuous adjoint: got a grid from t={times[0]:g} to {times[-1]:g} that repeats or turns, "
                "expected one that falls from noise to data, or rises, at every step; use Checkpoint()"
            )
        at, index = _nodes(plan.process, times, steps)
        own_clock = _clock(plan.process, times)
        clock = own_clock if at is times else _clock(plan.process, at)
        return cls(begin, times, at, index, clock, own_clock)

    @property
    def steps(self) -> int:
        """M, how many intervals the adjoint has."""
        return len(self.at) - 1

    @property
    def rises(self) -> bool:
        """Whether the run goes from data to noise."""
        return self.times[-1] > self.times[0]

    @property
    def is_the_runs(self) -> bool:
        """Whether its nodes are all those of the run and no others."""
        return self.index is not None and len(self.index) == len(self.times)

    def opens(self, node: int) -> int | None:
        """The plan's step that opens at a node of the adjoint, if one is known to."""
        return None if self.index is None else self.begin + self.index[node]

    def shares(self, interval: int) -> list[tuple[int, float]]:
        """The plan's steps that an interval of the adjoint covers, and their shares of its length on the clock.

        A gradient at one row of PerStep conditioning belongs to all the steps that its interval stands for.
        """
        high, low = self.clock[interval], self.clock[interval + 1]
        # the clock falls; the run's step that holds `high` is the last one to begin at or above it
        k = min(bisect_right(self.own_clock, -high, key=neg), len(self.own_clock) - 1) - 1
        over = []
        while k < len(self.own_clock) - 1:
            over.append((k, min(high, self.own_clock[k]) - max(low, self.own_clock[k + 1])))
            if self.own_clock[k + 1] <= low:
                break
            k += 1
        return [(self.begin + k, length / (high - low)) for k, length in over if length > 0]


def _nodes(
    process: Process, times: list[float], steps: int | None
) -> tuple[list[float], Sequence[int] | None]:
    """Times of `steps` intervals over `times`, and their places there.

    A coarser grid takes nodes of the run, at even distances in their count; a finer one divides its steps in
    lambda.
    """
    n = len(times) - 1
    if steps is None or steps == n:
        return times, range(n + 1)
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


def _clock(process: Process, values: Sequence[float]) -> MutableSequence[float]:
    """atan(sigma/alpha): a time that every process shares, and that stays finite where sigma/alpha does not; its
    negative where `values` rise.
    """
    t = torch.tensor(values, dtype=torch.float64)
    sign = 1.0 if values[0] > values[-1] else -1.0
    return array("d", (sign * torch.atan2(process.sigma(t), process.alpha(t))).tolist())
