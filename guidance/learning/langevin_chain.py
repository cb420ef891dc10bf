"""LangevinChain: particles on the stationary law of an energy, and how that law moves with its parameters."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...solvers import Addressed
from ...solvers.checked import CheckedFields
from ...solvers.wanted import Positive, Samples
from ..loss import Loss, check_loss
from .implicit import ImplicitSampler, Moved, check_gradients_reached, losses_of


@dataclass(frozen=True, eq=False)
class LangevinChain(CheckedFields, ImplicitSampler):
    """B particles that make one step a turn, with pi proportional to e^{-V(x, theta)} where they tend to:

        x <- x - size dV/dx + sqrt(2 size) xi
        d/dtheta E_pi f = -Cov_pi(f, dV/dtheta)

    The covariance is that of the particles, with B - 1 for its mean: unbiased where they are draws of pi. The loss f is
    taken as it stands: it may hold theta, and where that is beta (V_0 - V), for beta KL(pi || pi_0), nothing is
    missing, since E_pi d log pi/dtheta = 0.

    Args:
        energy: V, (B, ...) to (B,), a function of the parameters, differentiable in x and in them.
        x: (B, ...) where the particles begin; B of at least 2. size: of a step, in units of x squared; the law that is
            reached is off by first order in it, as `ULA`'s.
        noise: of the steps.

    Cost: one energy and two gradients of it a turn. Source: arXiv 2402.05468, prop. 3.1 and algorithm 2.
    """

    energy: Callable[[Tensor], Tensor]
    x: Samples
    size: Positive = 0.01
    noise: Addressed = Addressed(0)

    def __post_init__(self) -> None:
        if len(self.x) < 2:
            raise ValueError(
                f"LangevinChain: got {len(self.x)} particles, expected 2 or more; pass more of them"
            )

    def start(self, parameters: list[Tensor], loss: Loss) -> Callable[[int], Moved]:
        x = self.x.detach().clone()

        def advance(k: int) -> Moved:
            nonlocal x
            at = x.requires_grad_()
            energy = self.energy(at)
            check_loss(energy, len(at), "energy")
            with_graph = losses_of(loss, at)
            losses = with_graph.detach()
            weights = -(losses - losses.mean()) / (len(at) - 1)
            slope = None
            if energy.requires_grad:
                (slope,) = torch.autograd.grad(energy.sum(), at, retain_graph=True, allow_unused=True)
            if slope is None:
                raise ValueError(
                    "energy: got one that does not depend on x, expected a function of the particles; compute it "
                    "from x without detach() or no_grad()"
                )
            grads = torch.autograd.grad(weights @ energy, parameters, allow_unused=True, retain_graph=k == 0)
            if k == 0:
                check_gradients_reached("energy", parameters, with_graph, grads)
            gradient = [
                torch.zeros_like(p) if g is None else g for p, g in zip(parameters, grads, strict=True)
            ]
            x = at.detach()
            x = x - self.size * slope + math.sqrt(2 * self.size) * self.noise(k, x)
            return Moved(losses, gradient, len(at), 2 * len(at))

        return advance
