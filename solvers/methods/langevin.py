"""Langevin steps on p_t at one time t: as the corrector after another method's steps, and as chains of their own."""

import math
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from ..broadcast import per_sample
from ..checked import CheckedFields
from ..compiler import Builder, Method
from ..instructions import Apply
from ..plan import Plan
from ..prediction import NOISE
from ..process import Process, as_time
from ..wanted import Count, Finite, Positive
from .draws import draw
from .two_state import ReversibleMethod


class Norms(Enum):
    """What stands for |xi|/|score| in the step size of a Langevin corrector.

    EXPECTED: sigma, which it is near for an exact score in many dimensions: numbers known before the run, a plan
        that is linear. OWN: each sample's own two norms. The published code takes means over the batch, by which
        samples change with their batch mates: not here.
    """

    EXPECTED = "expected"
    OWN = "own"

    def __repr__(self) -> str:
        return self.name


@dataclass(frozen=True)
class LangevinCorrected(Method):
    """Predictor-corrector sampling: a step of `base`, then `times` Langevin steps on the law of the node reached,

        x <- x + eps score + sqrt(2 eps) xi = x - (eps/sigma) E + sqrt(2 eps) xi,  eps = 2 (snr |xi|/|score|)^2

    with eps = 2 (snr sigma)^2 where `norms` is EXPECTED. None at sigma = 0. Each step leaves a bias that no number of
    steps removes, for eps does not shrink with them: of data N(m, v) the variance tends to V/(1 - eps/(2 V)) in place
    of V = alpha^2 v + sigma^2. Hence order 0; what the corrector gives is that errors of `base` are forgotten.

    Args:
        base: any method but the reversible ones, whose second state it would leave behind.
        snr: the paper's r; 0.16 is a usual one. Its eps for VP has a further factor of alpha_i, that of one step of a
            thousand and near 1, which is left out.
        times: Langevin steps after each step of `base`.
        norms: EXPECTED or OWN. OWN is no linear plan: its inverse, moments and transitions are refused.

    Source: Song et al. 2021, arXiv 2011.13456, algorithms 2 to 5. Cost: `base`'s, and `times` network calls and noises
    a step.
    """

    base: Method
    snr: Positive = 0.16
    times: Count = 1
    norms: Norms = Norms.EXPECTED
    order = 0
    stochastic = True

    def __post_init__(self) -> None:
        if isinstance(self.base, ReversibleMethod):
            raise ValueError(
                f"LangevinCorrected: got the reversible base {self.base}, expected one with a single state; take "
                "DDIM(), DDPM() or DPMSolverPP()"
            )

    def step(self, b: Builder, i: int) -> None:
        self.base.step(b, i)
        sigma = b.sigma[i + 1]
        if sigma == 0:
            return
        b.evaluated.discard(f"D{i + 1}")  # if `base` left one, x is moved away from where it holds
        for k in range(self.times):
            noise = b.evaluate(f"L{i}_{k}", b.t[i + 1], NOISE)
            if self.norms is Norms.EXPECTED:
                b.combine("x", (1.0, "x"), (-2 * self.snr**2 * sigma, noise), noise=2 * self.snr * sigma)
            else:
                drawn = draw(b, f"xi{i}_{k}")
                b.ops.append(Apply((noise, drawn), (noise, drawn), _sized))
                b.combine("x", (1.0, "x"), (-2 * self.snr**2 * sigma, noise), (2 * self.snr * sigma, drawn))


def _sized(noise: Any, drawn: Any) -> tuple[Any, Any]:
    """(q^2 E, q xi), q = |xi|/|E| of each sample: with score = -E/sigma, snr q sigma is the root of eps/2."""
    ratio = (_square(drawn) / _square(noise)).sqrt()
    return (
        tree_map(lambda leaf: per_sample(ratio**2, leaf) * leaf, noise),
        tree_map(lambda leaf: per_sample(ratio, leaf) * leaf, drawn),
    )


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
        taken = torch.special.log_ndtr(total) < self.scale * (_square(before) - _square(after))
        return tree_map(lambda x, y: torch.where(per_sample(taken, x), y, x), x, y)


def _square(state: Any) -> Tensor:
    """(B,): the squared norm of each sample."""
    return sum(leaf.flatten(1).square().sum(1) for leaf in tree_leaves(state))  # type: ignore[return-value]
