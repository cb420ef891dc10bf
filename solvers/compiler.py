"""Method and Builder: from a method's formula and a grid's float64 nodes to a Plan."""

import math
from abc import ABC, abstractmethod
from array import array
from functools import cached_property
from itertools import accumulate, compress

import numpy as np
import torch
from torch import Tensor

from .checked import CheckedFields
from .grid import Times, checked_times, first_of_each
from .grid_warnings import warn_of
from .instructions import Combine, Evaluate, Instruction, reads, writes
from .linear_map import LinearMap
from .liveness import lifetimes
from .plan import Plan, stack
from .prediction import DATA, NOISE, Prediction
from .process import Process

# A step longer than this times the mean of those behind it is taken at first order. On a grid uniform in t the
# last step in lambda is several times the one before, and extrapolation over it fails: at 24 calls the second-order
# multistep method has an error of 0.11, first order 0.053, second order with this rule 0.029. On grids uniform
# in lambda and Karras grids the rule never bites.
CAP = 2.5


class Builder:
    """Collects the instructions of a method, step by step, over the nodes of a grid.

    t, alpha, sigma and lam = log(alpha/sigma) of every node, 0 .. N, are Python floats in float64.

    Steps speak to each other through registers, and a register is known by its name alone:

        "x"      the state: at node i when step i begins, at node i + 1 when it ends
        "D{i}"   the data prediction of node i: what `data(i)` and `first_order(i)` take, or else make
        "E{i}"   the noise prediction of node i
        "u{i}"   the velocity (FLOW) at node i
        others   between a method and itself: stages ("s3_1"), a second state ("y"), a predicted point ("p4")

    Whatever a step leaves may be read by later ones; what nobody reads again is dropped in the run.
    """

    def __init__(self, process: Process, times: Tensor) -> None:
        self.process, self._times = process, times
        self.t = array("d", times.tolist())
        self.steps = len(self.t) - 1
        self.ops: list[Instruction] = []
        self.starts: list[int] = []  # of each step so far, the index of its first instruction
        self.evaluated: set[str] = set()  # predictions that later steps may find made
        self.spare: set[str] = set()  # registers that are left out unless a later step reads them
        self.ends_twice = False  # whether the grid asks for a call at its last node
        self.slots = 0  # noise slots given out so far

    # on first use: a process need not have them all, nor a method want them
    @cached_property
    def alpha(self) -> array:
        return array("d", self.process.alpha(self._times).tolist())

    @cached_property
    def sigma(self) -> array:
        return array("d", self.process.sigma(self._times).tolist())

    @cached_property
    def lam(self) -> array:
        return array("d", self.process.lam(self._times).tolist())

    def begin(self) -> None:
        """The next instruction opens a step."""
        self.starts.append(len(self.ops))

    def forget(self) -> None:
        """Drop the instructions so far: their steps stay, empty. What the next step finds of the last is kept: the
        names of its predictions, and the count of slots.
        """
        self.evaluated &= {name for op in self.ops for name in writes(op)}
        self.ops.clear()
        self.starts = [0] * len(self.starts)

    def prune(self) -> None:
        """Drop the spare registers that nobody reads."""
        if not self.spare:
            return
        needed, kept = {"x"}, list[bool]()
        for op in reversed(self.ops):
            kept.append(not (isinstance(op, Combine) and op.out in self.spare and op.out not in needed))
            if kept[-1]:
                needed.difference_update(writes(op))
                needed.update(reads(op))
        kept.reverse()
        before = list(accumulate(kept, initial=0))
        self.ops = list(compress(self.ops, kept))
        self.starts = [before[start] for start in self.starts]

    def evaluate(self, out: str, t: float, want: Prediction, src: str = "x") -> str:
        """out <- want(src, t)."""
        self.ops.append(Evaluate((out,), src, t, want))
        self.evaluated.add(out)
        return out

    def combine(
        self, out: str, *terms: tuple[float | LinearMap, str], noise: float | LinearMap = 0.0
    ) -> None:
        """out <- sum of terms (+ noise times a fresh slot)."""
        drawn = ()
        if noise:
            drawn = ((noise, self.slots),)
            self.slots += 1
        self.ops.append(
            Combine(
                out,
                tuple([(c if isinstance(c, LinearMap) else float(c), r) for c, r in terms if c != 0.0]),
                drawn,
            )
        )

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

    def rates(self, i: int) -> tuple[float, float]:
        """(f, g^2) of dx = f x dt + g dw at node i."""
        return self._rates[0][i], self._rates[1][i]

    @cached_property
    def _rates(self) -> list[list[float]]:
        t = torch.tensor(self.t, dtype=torch.float64)
        return [values.tolist() for values in (self.process.f(t), self.process.g2(t))]

    def times_of(self, lam: np.ndarray) -> np.ndarray:
        """Vectorised inverse of lambda."""
        return self.process.time(torch.as_tensor(lam)).numpy()

    def data(self, i: int) -> str:
        """The data prediction of node i: as a corrector left it, or else evaluated at "x"."""
        return f"D{i}" if f"D{i}" in self.evaluated else self.evaluate(f"D{i}", self.t[i], DATA)

    def reach(self, i: int, order: int, cap: float) -> int:
        """How many nodes step i can interpolate, its own included: at most `order`, all finite; 1 where the step
        is longer than `cap` times the mean of those behind it (see CAP).
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


class Method(CheckedFields, ABC):
    """A sampler's formula. A subclass is a frozen dataclass that emits one step at a time."""

    order: int
    stochastic: bool = False
    staggered: bool = False  # as of Plan
    both_ways: bool = False  # whether it may add noise on a rising grid

    @abstractmethod
    def step(self, b: Builder, i: int) -> None:
        """Emit the instructions that take "x" from node i to node i + 1."""

    def plan(self, process: Process, grid: Times) -> Plan:
        """Compile to a Plan.

        Args:
            process: alpha and sigma.
            grid: a Grid, or times: (N+1,), or (N+1, B) for one grid per sample.

        Raises:
            ValueError: unsorted or duplicate times, times outside the process, a rising grid for a stochastic
                method. TypeError: an argument of another kind.

        Warns (UserWarning) of grids that start next to the data, that rise and are not `Rising(grid)`, and of times in
        [0, 1] on a table of steps.
        """
        plan = self.along(process, grid)
        warn_of(grid, checked_times(grid, process), process)
        return plan

    def along(self, process: Process, grid: Times) -> Plan:
        """As `plan`, without its warnings: for a stretch of a longer way, which may start anywhere."""
        times = checked_times(grid, process)
        if self.stochastic and not self.both_ways and bool((times[-1] > times[0]).any()):
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

        Its memory grows with high - low only: what walks a long plan piece by piece asks for it. A step between
        two equal nodes is x <- x, and is no step to the method.
        """
        return self._planned(self._emitted(process, times, low, high), times[: high + 1])

    def _emitted(self, process: Process, times: Tensor, low: int, high: int) -> Builder:
        new = first_of_each(times)
        builder, node = Builder(process, times[new]), -1
        builder.ends_twice = not bool(new[-1])
        for i, moves in enumerate(new[1 : high + 1].tolist()):
            if i <= low:  # steps before `low` are emitted for what the later ones find of them
                builder.forget()
            builder.begin()
            node += moves
            if moves:
                self.step(builder, node)
            else:
                builder.combine("x", (1.0, "x"))
        return builder

    def _planned(self, builder: Builder, times: Tensor) -> Plan:
        ops, starts = tuple(builder.ops), tuple(builder.starts)
        return Plan(
            str(self),
            builder.process,
            tuple(times.tolist()),
            ops,
            starts,
            self.order,
            self.stochastic,
            staggered=self.staggered,
        )

    def _compile(self, process: Process, times: Tensor) -> Plan:
        builder = self._emitted(process, times, 0, len(times) - 1)
        builder.prune()
        plan = self._planned(builder, times)
        lost = lifetimes(plan.instructions, plan.starts, plan.exit)[0] - set(plan.entry)
        if lost:
            raise ValueError(
                f"{self}: got steps that read {sorted(lost)}, which nothing wrote, expected registers written "
                "before they are read; Builder.data(i) evaluates what is not there, first_order(i) leaves D{i}, "
                "or E{i} where sigma = 0"
            )
        return plan
