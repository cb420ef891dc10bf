"""Pilot: what gradients on a ladder of grids were measured to be, and the levels that follow from it."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...solvers.checked import checked
from ...solvers.notebook import Shown
from .allocation import Allocation
from .best import best, steps_between
from .draws import LevelDraws, StratifiedDraws
from .levels import GridLevels


@dataclass(frozen=True, eq=False, repr=False)
class Pilot(Shown):
    """Moments of one sample's gradient f_l on K grids; prints as a table.

    Attributes:
        ladder: all grids, each for every sample.
        second, cov: (K, K) E[f_k . f_l] and Cov[f_k . f_l], unbiased, over `count` samples.
        costs: (K,) network calls and VJPs of one sample's gradient.
    """

    ladder: GridLevels
    second: Tensor
    cov: Tensor
    costs: tuple[float, ...]
    count: int

    @checked
    def levels(self, draws: LevelDraws = StratifiedDraws()) -> GridLevels:
        """Those of the grids, and how often each, that give the finest one's gradient at the least variance times work;
        the finest alone where no coarser one pays.
        """
        kept, allocation, _ = self._best(draws)
        steps = tuple(self.ladder.steps[k] for k in kept)
        return replace(self.ladder, steps=steps, allocation=allocation, draws=draws)

    @checked
    def endless(self, draws: LevelDraws = StratifiedDraws()) -> GridLevels:
        """As `levels`, and on: grids double past the finest, each rarer by 2^-(1+beta)/2, for the limit's gradient.

        Raises:
            ValueError: a measured `decay` beta <= 1, for which work or variance would be infinite.
        """
        beta, found = self.decay, self.levels(draws)
        if not beta > 1:
            raise ValueError(
                f"endless: got differences that fall by 2^-{beta:.2f} a doubling of the steps, expected faster than "
                "2^-1, as work grows; measure on finer grids, or take levels() for the finest one"
            )
        # what is measured on coarse grids may promise more than the order can hold
        beta = min(beta, found.nominal)
        allocation: Any = found.allocation
        return replace(found, allocation=replace(allocation, beyond=2 ** (-(1 + beta) / 2)))

    @checked
    def gain(self, draws: LevelDraws = StratifiedDraws()) -> float:
        """How many times less `levels(draws)` is expected to cost than the finest grid alone, at equal variance."""
        return float(self.cov[-1, -1]) * self.costs[-1] / self._best(draws)[2]

    @property
    def decay(self) -> float:
        """beta of E|f_l - f_{l-1}|^2 ~ (n_{l-1}^{-beta/2} - n_l^{-beta/2})^2, n steps, an error of order beta/2 of one
        sign; the best on the finest three differences, to 0.02.

        Raises:
            ValueError: fewer than three grids.
        """
        squares = torch.tensor(steps_between(self.second)[-3:], dtype=torch.float64)
        if len(squares) < 2:
            raise ValueError(
                f"decay: got {len(self.costs)} grids, expected three or more to see how fast they meet"
            )
        steps = torch.tensor(self.ladder.steps[-len(squares) - 1 :], dtype=torch.float64)
        betas = torch.arange(0.1, 12, 0.02, dtype=torch.float64)
        errors = steps ** (-betas[:, None] / 2)
        off = squares.log() - 2 * (errors[:, :-1] - errors[:, 1:]).log()
        return float(betas[off.var(1).argmin()])

    def __str__(self) -> str:
        """A row for each grid, then the best levels."""
        whole, mean = float(self.cov[-1, -1]), self.second - self.cov
        between = ["", *(f"{step / whole:.2e}" for step in steps_between(self.cov))]
        sizes = mean.diagonal().clamp(min=torch.finfo(mean.dtype).tiny).sqrt()
        lines = [
            f"{'steps':>6s} {'cost':>7s} {'variance':>9s} {'difference':>10s} {'cosine':>7s} {'norm':>6s}"
        ]
        for k, steps in enumerate(self.ladder.steps):
            cosine = float(mean[k, -1] / sizes[k] / sizes[-1])
            lines.append(
                f"{steps:6d} {self.costs[k]:7g} {float(self.cov[k, k]) / whole:9.3f} {between[k]:>10s} {cosine:7.3f} "
                f"{float(sizes[k] / sizes[-1]):6.3f}"
            )
        found = self.levels()
        lines += [
            f"{self.count} samples; variances, of differences to the grid above too, in units of the finest's; "
            "cosine and norm of mean gradients against the finest's",
            f"best: steps {found.steps}, {found.allocation}: {self.gain():.1f} times less work at equal variance",
        ]
        return "\n".join(lines)

    def _best(self, draws: LevelDraws) -> tuple[tuple[int, ...], Allocation, float]:
        return best(draws, self.second, self.cov, self.costs)
