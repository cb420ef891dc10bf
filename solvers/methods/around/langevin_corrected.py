"""Langevin steps on p_t after another method's steps: the corrector of predictor-corrector sampling."""

from dataclasses import dataclass
from enum import Enum
from typing import Any

from torch.utils._pytree import tree_map

from ...broadcast import per_sample
from ...compiler import Builder, Method
from ...instructions import Apply
from ...prediction import NOISE
from ...wanted import Count, Positive
from ..draws import draw, squared_norm
from ..reversible_method import ReversibleMethod


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
    ratio = (squared_norm(drawn) / squared_norm(noise)).sqrt()
    return (
        tree_map(lambda leaf: per_sample(ratio**2, leaf) * leaf, noise),
        tree_map(lambda leaf: per_sample(ratio, leaf) * leaf, drawn),
    )
