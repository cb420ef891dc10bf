"""Sums of gradients over a grid that is not the run's."""

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from operator import neg

import torch
from torch import Tensor

from ...solvers import Call, Process
from ...solvers.program import Value
from ..sensitivity import Sensitivity


class Shares:
    """For each interval between `nodes` the steps of the run it covers and their shares, by length in
    atan(sigma/alpha).

    A gradient at one row of PerStep conditioning belongs to all the steps that its interval stands for.
    """

    def __init__(self, process: Process, times: Sequence[float], nodes: Sequence[float]) -> None:
        self.own, self.ends = _clock(process, times), _clock(process, nodes)

    def __getitem__(self, interval: int) -> list[tuple[int, float]]:
        high, low = self.ends[interval], self.ends[interval + 1]
        # the clock falls; the run's step that holds `high` is the last one to begin at or above it
        k = min(bisect_right(self.own, -high, key=neg), len(self.own) - 1) - 1
        over = []
        while k < len(self.own) - 1:
            over.append((k, min(high, self.own[k]) - max(low, self.own[k + 1])))
            if self.own[k + 1] <= low:
                break
            k += 1
        return [(k, length / (high - low)) for k, length in over if length > 0]


def _clock(process: Process, values: Sequence[float]) -> "array[float]":
    t = torch.tensor(values, dtype=torch.float64)
    return array(
        "d", torch.atan2(process.sigma(t), process.alpha(t)).tolist()
    )  # bounded where sigma/alpha is not


class Spread(Sensitivity):
    """Sums in which one interval of a coarser or finer grid stands for several steps of the run, or for a
    part of one.
    """

    shares: Shares
    weights: list[tuple[int, float]]
    begin = 0
    index: Sequence[int] | None = None

    def pull_at(
        self, call: Call, weights: list[tuple[int, float]], state: Tensor, cotangent: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Evaluate `call` at `state` and pull the cotangent back: (prediction, cotangent of the state).

        Args:
            weights: (interval, factor) of what the gradients of conditioning and parameters enter; the first
                one's conditioning is seen.
        """
        most, _ = max(self.shares[weights[0][0]], key=lambda share: share[1])
        call = replace(call, step=self.begin + most)
        replay = self.replay(call, state)
        self.weights = weights
        return replay.out.detach(), self.back(call, replay, cotangent)

    def opened(self, step: int, cotangent: Tensor) -> None:
        super().opened(self.begin + step, cotangent)

    def jump(self, step: int) -> Tensor | None:
        return None if self.index is None else super().jump(self.begin + self.index[step])

    def noise(self, slot: int, cotangent: Tensor, c: Value) -> None:
        super().noise(self.begin + slot, cotangent, c)

    def add_all(self, grads: dict[str, Tensor | None]) -> None:
        for name, grad in grads.items():
            self.add(name, grad)

    def add(self, name: str, grad: Tensor | None, row: int | None = None) -> None:
        if grad is None or name in ("noise", "controls"):
            return super().add(name, grad, row)
        if row is None:
            return super().add(name, grad * sum(w for _, w in self.weights))
        for interval, w in self.weights:
            for k, share in self.shares[interval]:
                super().add(name, grad * (w * share), self.begin + k)
