"""Morphs of which the best is known: people are components of a mixture, recognisers are matrices."""

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from pullback.adjoint import sample
from pullback.guidance import Embedding, Pair
from pullback.solvers import DDIM, VP, DPMSolverPP, Gaussian, Mixture, Plan, UniformLambda

ENDS = {"start": 0.99, "end": 0.02}


def recogniser(*rows: tuple[float, ...]) -> Embedding:
    """The Euclidean distance after a matrix."""
    matrix = torch.tensor(rows)
    return Embedding(lambda x: x.flatten(1) @ matrix.to(x).T)


def seen_by() -> Embedding:
    return recogniser((1.0, 0.3), (-0.2, 0.8), (0.5, 0.5))


def judge() -> Embedding:
    return recogniser((0.5, -0.3), (0.2, 0.9))


def crowd() -> Mixture:
    """Four identities, each with its own spread of photographs."""
    means = torch.tensor([[1.0, 0.5], [-1.0, 0.2], [0.3, -1.0], [-0.4, 1.2]])
    return Mixture.isotropic(torch.ones(4) / 4, means, torch.tensor(0.3))


def one() -> Mixture:
    """Gaussian data, of which every run is affine."""
    return Gaussian(torch.tensor([0.2, -0.1]), torch.tensor([[0.8, 0.3], [0.3, 0.5]]))


def pair() -> Pair:
    means = crowd().means
    return Pair(means[[0, 1, 2]], means[[1, 2, 3]])


def ode(steps: int = 10) -> Plan:
    return DPMSolverPP(2).plan(VP(), UniformLambda(steps, **ENDS))


def sde(steps: int = 10) -> Plan:
    return DDIM(1.0).plan(VP(), UniformLambda(steps, **ENDS))


def least_worse(recogniser: Embedding, pair: Pair) -> Tensor:
    """(B,) half the distance of the subjects: no image is closer to both than that, by the triangle inequality, and
    under a linear recogniser the middle is as close.
    """
    seen = [recogniser.describe(image) for image in (pair.first, pair.second)]
    return recogniser.distance(seen[0], seen[1]) / 2


def brute_force(model, plan: Plan, loss, row: int, reach: float = 4.0, n: int = 61, zooms: int = 4) -> float:
    """The least loss of pair `row` over a grid of starts in [-reach, reach]^2, which closes in on the best of it."""
    centre, least = torch.zeros(2), torch.inf
    context = tree_map_only(
        Tensor, lambda each: each[row : row + 1].expand(n * n, *each.shape[1:]), loss.context
    )
    for _ in range(zooms):
        line = torch.linspace(-reach, reach, n)
        starts = centre + torch.cartesian_prod(line, line)
        with torch.no_grad():
            losses = loss.given(sample(model, plan, starts, gradient=None), context)
        least = min(least, float(losses.min()))
        centre, reach = starts[losses.argmin()], 8 * reach / n  # four cells to every side
    return least
