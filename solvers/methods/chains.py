"""Markov chains of Langevin steps on p_t at one time t, as plans."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

from ..broadcast import per_sample
from ..checked import CheckedFields
from ..compiler import Builder
from ..instructions import Apply
from ..plan import Plan
from ..prediction import NOISE
from ..process import Process, as_time
from ..wanted import Count, Finite, Positive
from .draws import draw, squared_norm


@dataclass(frozen=True)
class _Chain(CheckedFields):
    """A Markov chain on p_t. A Plan of it has every node at t."""

    t: Finite
    size: Positive
    steps: Count

    def plan(self, process: Process) -> Plan:
        """Compile to a Plan; raises ValueError where `process` has no law with noise at t."""
        if not (process.t_min <= self.t <= process.t_max and float(process.sigma(as_time(self.t))) > 0):
            raise ValueError(
                f"{self}: got t={self.t}, expected a time of {process} with sigma > 0, in [{process.t_min:g}, "
                f"{process.t_max:g}]"
            )
        b = Builder(process, as_time([self.t] * (self.steps + 1)))
        for i in range(self.steps):
            b.begin()
            self._step(b, i, b.sigma[i])
        return Plan(str(self), process, tuple(b.t), tuple(b.ops), tuple(b.starts), 1, True)

    def _step(self, b: Builder, i: int, sigma: float) -> None:
        raise NotImplementedError

    def _proposal(self, b: Builder, i: int, sigma: float, out: str) -> str:
        """out <- x + size score(x) + sqrt(2 size) xi; returns the register of E(x)."""
        noise = b.evaluate(f"E{i}", b.t[i], NOISE)
        b.combine(out, (1.0, "x"), (-self.size / sigma, noise), noise=math.sqrt(2 * self.size))
        return noise


@dataclass(frozen=True)
class ULA(_Chain):
    """Unadjusted Langevin: `steps` times x <- x + size score(x, t) + sqrt(2 size) xi, from any start.

        plan = ULA(t=0.2, size=0.01, steps=100).plan(denoiser.process)

    For data N(m, v) and size < 2 V, V = alpha^2 v + sigma^2, the chain's law tends to N(alpha m, V/(1 - size/(2 V))):
    a bias of first order in size. A few steps from where the last call ended, differentiated by `Truncated(k)`, are
    the inner loop of single-loop optimisation through a sampler (Implicit Diffusion, arXiv 2402.05468).

    Args:
        t: time of the law. size: of a step, in the state's units squared. steps: of the chain.

    Source: Roberts and Tweedie 1996. Cost: 1 network call and noise a step.
    """

    def _step(self, b: Builder, i: int, sigma: float) -> None:
        self._proposal(b, i, sigma, "x")


@dataclass(frozen=True)
class MALA(_Chain):
    """Langevin steps y that are taken with probability min(1, r), so that p_t stays as it is; arguments as of `ULA`.

        log r = log p(y)/p(x) + log q(x | y)/q(y | x) = size (|score(x)|^2 - |score(y)|^2)/4

    There is no density to ask, only its score: log p(y)/p(x) is the integral of the score from x to y by the trapezium
    rule, which cancels against the proposals' densities but for the above. It is exact where p_t is Gaussian; else
    its error is of third order in y - x.

    The gradient is that of the chain with its choices as they fell. Source: Roberts and Tweedie 1996; the trapezium
    rule derived here. Cost: 2 network calls and noises a step; the second noise gives one number a sample.
    """

    def _step(self, b: Builder, i: int, sigma: float) -> None:
        before = self._proposal(b, i, sigma, f"y{i}")
        after = b.evaluate(f"F{i}", b.t[i], NOISE, f"y{i}")
        drawn = draw(b, f"u{i}")
        b.ops.append(Apply(("x",), ("x", before, f"y{i}", after, drawn), _Choice(self.size / (4 * sigma**2))))


@dataclass(frozen=True)
class _Choice:
    """y where log u < scale (|E(x)|^2 - |E(y)|^2), else x; u uniform, by Phi of the draw's sum over each sample."""

    scale: float

    def __call__(self, x: Any, before: Any, y: Any, after: Any, drawn: Any) -> Any:
        count = sum(leaf[0].numel() for leaf in tree_leaves(drawn))
        total = sum(leaf.flatten(1).sum(1) for leaf in tree_leaves(drawn)) / math.sqrt(count)
        taken = torch.special.log_ndtr(total) < self.scale * (squared_norm(before) - squared_norm(after))
        return tree_map(lambda x, y: torch.where(per_sample(taken, x), y, x), x, y)
