"""Restart: jump back up by adding noise, and solve down again."""

import math
from dataclasses import dataclass

import torch

from ...compiler import Builder, Method
from ...instructions import reads, writes
from ...process import as_time


@dataclass(frozen=True)
class Restart(Method):
    """`base`, and at the first node with rho <= `low`, `times` times over:

        y <- y + s_noise sqrt(high^2 - rho^2) xi,  then `base` from `high` down to rho,  y = x/alpha, rho = sigma/alpha

    on `steps` steps equally spaced in rho^(1/7), or without `steps` on the grid's own nodes inside. `base` is
    a deterministic single-step method. A grid that does not pass from above `low` to below it is not
    restarted.

    Order: weak order of `base` if `steps` is None and s_noise = 1. Source: Xu et al. 2023, arXiv 2306.14878,
    section 3. Cost: `base`'s, and `times` more runs through the band.
    """

    base: Method
    low: float = 0.2
    high: float = 1.0
    times: int = 1
    steps: int | None = None
    s_noise: float = 1.0
    stochastic = True

    def __post_init__(self) -> None:
        if self.base.stochastic:
            raise ValueError(
                f"Restart: got the stochastic {self.base}, expected a deterministic base, such as EDMHeun()"
            )
        if not 0 < self.low < self.high < math.inf:
            raise ValueError(
                f"Restart: got low={self.low}, high={self.high}, expected 0 < low < high in units of "
                "sigma/alpha; swap them"
            )
        if self.times < 1:
            raise ValueError(
                f"Restart: got times={self.times}, expected at least 1; without restarts use the base"
            )
        if self.steps is not None and self.steps < 1:
            raise ValueError(
                f"Restart: got steps={self.steps}, expected at least 1, or None for the grid's own nodes"
            )
        if not 0 <= self.s_noise < math.inf:
            raise ValueError(
                f"Restart: got s_noise={self.s_noise}, expected a number >= 0, 1 to keep the law"
            )

    @property
    def order(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.base.order

    def step(self, b: Builder, i: int) -> None:
        self._base(b, i)
        if not b.rho(i) > self.low >= b.rho(i + 1):
            return
        top, alpha, _ = b.at(-math.log(self.high))
        largest = math.exp(-float(b.process.lam(b.process.t_max)))
        if self.high > largest:
            raise ValueError(
                f"{self}: got high={self.high}, expected at most {largest:.6g}, where {b.process} ends"
            )
        rest = self._nodes(b, i + 1, top)
        end = b.rho(i + 1)
        for _ in range(self.times):
            b.combine(
                "x",
                (alpha / b.alpha[i + 1], "x"),
                noise=alpha * self.s_noise * math.sqrt((self.high - end) * (self.high + end)),
            )
            again = Builder(b.process, as_time(rest))
            for k in range(again.steps):
                again.begin()
                self._base(again, k)
            b.ops += again.ops

    def _base(self, b: Builder, i: int) -> None:
        """One step of the base, refused if it reads what an earlier step left: a restart would make that stale."""
        first = len(b.ops)
        self.base.step(b, i)
        known = {"x"}
        for op in b.ops[first:]:
            stale = set(reads(op)) - known
            if stale:
                raise ValueError(
                    f"Restart: got the multistep {self.base}, which reads {', '.join(sorted(stale))} of an "
                    "earlier step; expected a single-step base, such as EDMHeun() or DPMSolverPPSingle()"
                )
            known |= set(writes(op))

    def _nodes(self, b: Builder, end: int, top: float) -> list[float]:
        """Times from `high` to node `end`."""
        if self.steps is None:
            return [top, *(b.t[j] for j in range(end) if b.rho(j) < self.high), b.t[end]]
        root = torch.linspace(
            self.high ** (1 / 7), b.rho(end) ** (1 / 7), self.steps + 1, dtype=torch.float64
        )
        return [top, *b.process.time(-7 * root[1:-1].log()).tolist(), b.t[end]]
