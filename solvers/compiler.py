"""Method and Builder: from a method's formula and a grid's float64 nodes to a Plan."""

import math
from abc import ABC, abstractmethod
from array import array
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .grid import Grid, checked_times
from .instructions import Combine, Evaluate, Instruction
from .plan import Plan, stack
from .prediction import DATA, NOISE, Prediction
from .process import Process


class Builder:
    """Collects instructions; holds t, alpha, sigma, lambda and rho = sigma/alpha of every node in float64."""

    def __init__(self, process: Process, times: Tensor) -> None:
        self.process = process
        self.t, self.alpha, self.sigma, self.lam = (
            array("d", values.tolist())
            for values in (times, process.alpha(times), process.sigma(times), process.lam(times))
        )
        self.steps = len(self.t) - 1
        self.ops: list[Instruction] = []
        self.starts: list[int] = []
        self.evaluated: set[str] = set()
        self.slots = 0

    def begin(self) -> None:
        """The next instruction opens a step."""
        self.starts.append(len(self.ops))

    def evaluate(self, out: str, t: float, want: Prediction, src: str = "x") -> str:
        """out <- want(src, t)."""
        self.ops.append(Evaluate((out,), src, t, want))
        self.evaluated.add(out)
        return out

    def combine(self, out: str, *terms: tuple[float, str], noise: float = 0.0) -> None:
        """out <- sum of terms (+ noise times a fresh slot)."""
        drawn = ()
        if noise:
            drawn = ((noise, self.slots),)
            self.slots += 1
        self.ops.append(Combine(out, tuple([(float(c), r) for c, r in terms if c != 0.0]), drawn))

    def at(self, lam: float) -> tuple[float, float, float]:
        """(t, alpha, sigma) at a stage's lambda."""
        t = self.process.time(lam)
        return float(t), float(self.process.alpha(t)), float(self.process.sigma(t))

    def finite(self, i: int) -> bool:
        """Whether node i has a finite lambda."""
        return math.isfinite(self.lam[i])

    def rho(self, i: int) -> float:
        """sigma/alpha, 0 where sigma = 0, inf where alpha = 0."""
        return self.sigma[i] / self.alpha[i] if self.alpha[i] else math.inf

    def times_of(self, lam: np.ndarray) -> np.ndarray:
        """Vectorised inverse of lambda."""
        return self.process.time(torch.as_tensor(lam)).numpy()

    def data(self, i: int) -> str:
        """The data prediction of node i: as a corrector left it, or else evaluated at "x"."""
        return f"D{i}" if f"D{i}" in self.evaluated else self.evaluate(f"D{i}", self.t[i], DATA)

    def reach(self, i: int, order: int, cap: float) -> int:
        """How many past nodes step i can use: history available, finite, and no step `cap` times the mean of
        those behind.
        """
        if not (self.finite(i) and self.finite(i + 1)):
            return 1
        usable = 1
        while usable < min(order, i + 1) and self.finite(i - usable):
            usable += 1
        if usable > 1:
            past = (self.lam[i] - self.lam[i - usable + 1]) / (usable - 1)
            if (self.lam[i + 1] - self.lam[i]) / past > cap:
                return 1
        return usable

    def ddim(self, s: int, t: int) -> tuple[float, float]:
        """(ratio, gain) of DDIM from node s, sigma_s > 0, to node t: ratio x + gain D."""
        ratio = self.sigma[t] / self.sigma[s]
        # alpha_t (1 - e^{-h}) by expm1 where h is finite, alpha_t - alpha_s sigma_t / sigma_s where it is not
        gain = (
            -self.alpha[t] * math.expm1(self.lam[s] - self.lam[t])
            if self.finite(s) and self.finite(t)
            else self.alpha[t] - self.alpha[s] * ratio
        )
        return ratio, gain

    def first_order(self, i: int, src: str = "x", out: str = "x") -> None:
        """DDIM from node i to i + 1, legal at alpha = 0 and sigma = 0: x_t = (sigma_t/sigma_s) x + (...) D or
        its noise form.

        The prediction is taken at `src`, which holds what `out` is stepped from.
        """
        if self.sigma[i] > 0:
            ratio, gain = self.ddim(i, i + 1)
            data = self.data(i) if src == "x" else self.evaluate(f"D{i}", self.t[i], DATA, src)
            self.combine(out, (ratio, out), (gain, data))
        else:
            ratio = self.alpha[i + 1] / self.alpha[i]
            self.combine(
                out, (ratio, out), (self.sigma[i + 1], self.evaluate(f"E{i}", self.t[i], NOISE, src))
            )


class Method(ABC):
    """A sampler's formula. A subclass is a frozen dataclass that emits one step at a time."""

    order: int
    stochastic: bool = False

    @abstractmethod
    def step(self, b: Builder, i: int) -> None:
        """Emit the instructions that take "x" from node i to node i + 1."""

    def plan(self, process: Process, grid: Grid | Tensor | Sequence[float]) -> Plan:
        """Compile to a Plan.

        Args:
            process: alpha and sigma.
            grid: a Grid, or times: (N+1,), or (N+1, B) for one grid per sample.

        Raises:
            ValueError: unsorted or duplicate times, times outside the process, a rising grid for a stochastic
                method.
        """
        times = checked_times(grid, process)
        if self.stochastic and bool((times[1] > times[0]).any()):
            raise ValueError(
                f"{self}: got a rising grid, expected one that falls from noise to data; noise is only added "
                "while denoising: use a deterministic method to encode"
            )
        if times.ndim == 2:
            return stack([self._compile(process, column) for column in times.T])
        return self._compile(process, times)

    def part(self, process: Process, times: Tensor, low: int, high: int) -> Plan:
        """Steps low .. high - 1 as they stand in the whole plan on `times`; those before are empty, those
        after left out.

        Its memory grows with high - low only: what walks a long plan piece by piece asks for it.
        """
        builder = Builder(process, times)
        for i in range(high):
            if i <= low:  # what a step reads of the one before is known by name
                builder.evaluated = {op.outs[0] for op in builder.ops if isinstance(op, Evaluate)}
                builder.ops.clear()
                builder.starts = [0] * i
            builder.begin()
            self.step(builder, i)
        return Plan(
            str(self),
            process,
            tuple(builder.t[: high + 1]),
            tuple(builder.ops),
            tuple(builder.starts),
            self.order,
            self.stochastic,
        )

    def _compile(self, process: Process, times: Tensor) -> Plan:
        return self.part(process, times, 0, len(times) - 1)
