"""Pseudo linear multistep methods: Adams weights of equal steps in rho, whatever the steps are."""

from dataclasses import dataclass

from ..compiler import Builder
from ..prediction import NOISE
from .adams import Nodes, NoiseAdams, adams_step
from .runge_kutta import HEUN, rho_step
from .weights import plain_weights


def equal_steps(b: Builder, i: int, reach: int) -> None:
    """y_t = y_s + (rho_t - rho_s) sum_j a_j E_{-j},  a = (1), (3, -1)/2, (23, -16, 5)/12, (55, -59, 37, -9)/24."""
    width = b.rho(i + 1) - b.rho(i)
    adams_step(b, i, [width * w for w in plain_weights([-float(j) for j in range(reach)])])


@dataclass(frozen=True)
class _EqualSteps(NoiseAdams):
    """Fixed Adams weights of at most `nodes` nodes."""

    nodes: Nodes = 4

    @property
    def order(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return min(self.nodes, 2)

    def reaches(self) -> int:
        return self.nodes

    def advance(self, b: Builder, i: int, reach: int) -> None:
        equal_steps(b, i, reach)


@dataclass(frozen=True)
class IPNDM(_EqualSteps):
    """y_t = y_s + (rho_t - rho_s) sum_j a_j E_{-j},  y = x/alpha, rho = sigma/alpha,

        a = (1), (3, -1)/2, (23, -16, 5)/12, (55, -59, 37, -9)/24 by the number of nodes, at most `nodes`

    The weights are those of equal steps in rho. On other grids, Karras' among them, more than two nodes are still of
    order 2: for order 4 take `LMS(4)`, which is the same with weights of its own for each step. Warm-up rises from
    one node.

    Source: Zhang and Chen 2023, arXiv 2204.13902, after Liu et al. 2022, arXiv 2202.09778. Cost: 1 network call a
    step, nodes + 1 states.
    """


@dataclass(frozen=True)
class PLMS(_EqualSteps):
    """`IPNDM` with its first step by Heun's method in rho: 2 network calls there.

    As latent diffusion and Stable Diffusion sample, and diffusers' PNDM with skip_prk_steps; PLMS(2) is S-PNDM.
    Order 2, or on steps equal in rho 3: that of the warm-up.

    Source: Liu et al. 2022, arXiv 2202.09778, section 3.3. Cost: N + 1 network calls, nodes + 1 states.
    """

    def opens(self, b: Builder, i: int, first: str) -> bool:
        if i == 0:
            rho_step(b, i, HEUN, first)
        return i == 0


@dataclass(frozen=True)
class PNDM(NoiseAdams):
    """F-PNDM: `IPNDM(4)` after three pseudo Runge-Kutta steps, of which t' is the middle in model time:

        to(e, u) = (alpha_u/alpha_s) x + alpha_u (rho_u - rho_s) e     the DDIM step from s to u along e
        e1 = E_s, e2 = E(to(e1, t')), e3 = E(to(e2, t')), e4 = E(to(e3, t));  x_t = to((e1 + 2 e2 + 2 e3 + e4)/6, t)

    Order 2, as the paper proves; 4 where steps are equal in rho and t' is the middle in rho, as on `EDM()`.

    Source: Liu et al. 2022, arXiv 2202.09778, algorithm 2 and eq. 11 to 13. Cost: N + 9 network calls, 8 states.
    """

    order = 2

    def reaches(self) -> int:
        return 4

    def advance(self, b: Builder, i: int, reach: int) -> None:
        equal_steps(b, i, reach)

    def opens(self, b: Builder, i: int, first: str) -> bool:
        half = (b.t[i] + b.t[i + 1]) / 2
        alpha, sigma = (float(f(half)) for f in (b.process.alpha, b.process.sigma))
        middle, end = (half, alpha, sigma / alpha), (b.t[i + 1], b.alpha[i + 1], b.rho(i + 1))
        slopes = [first]
        for k, (t, scale, rho) in enumerate((middle, middle, end), start=2):
            point = f"s{i}_{k}"
            b.combine(point, (scale / b.alpha[i], "x"), (scale * (rho - b.rho(i)), slopes[-1]))
            slopes.append(b.evaluate(f"k{i}_{k}", t, NOISE, point))
        _, *late = slopes
        width = end[2] - b.rho(i)
        adams_step(
            b, i, [width / 6], tuple((width * w, e) for w, e in zip((1 / 3, 1 / 3, 1 / 6), late, strict=True))
        )
        return True
