"""Krylov: what conjugate gradients know of a matrix, kept: a step for every trust region at no further cost."""

from collections.abc import Callable

import torch
from torch import Tensor


class Krylov:
    """min over p of g.p + p.A p/2 with |p| <= radius, sample by sample, on the space of g, A g, A^2 g, ...

    Lanczos' recurrence A Q = Q T + beta q e_j^T from q_0 = g/|g|, every new vector cleared of all former ones. Without
    a radius the step is that of j conjugate gradients (Golub and Van Loan 2013, section 11.3.4). With one it is
    -(A + mu I)^-1 g, mu >= 0 the damping of Levenberg and Marquardt, found in the eigenvectors of the small T: a step
    for another radius needs no new product with A, and an A that is not positive is no trouble. Source: Gould, Lucidi,
    Roma and Toint 1999, SIAM J. Optim. 9, section 5.

    Args:
        product: A v, (B, d) for (B, d).
        gradient: g, (B, d).
        radius: (B,).
        going: (B,) whose step is wanted.
        forcing: a sample's space grows until |(A + mu I) p + g| <= forcing |g|.
        most: products, at most.

    Cost: as many products as the slowest sample needs. A sample's space does not depend on its batch mates.
    """

    def __init__(
        self,
        product: Callable[[Tensor], Tensor],
        gradient: Tensor,
        radius: Tensor,
        going: Tensor,
        forcing: float,
        most: int,
    ) -> None:
        self.norm = gradient.norm(dim=1)  # |g|
        going = going & (self.norm > 0)
        tiny = torch.finfo(gradient.dtype).eps
        q = torch.where(going[:, None], gradient, 0.0) / torch.where(going, self.norm, 1.0)[:, None]
        self.basis = q[:, None]  # (B, j, d)
        self.small = gradient.new_zeros(len(q), 0, 0)  # T, (B, j, j)
        couple = gradient.new_zeros(len(q))
        self.products = 0
        while True:
            image = product(q)
            self.products += 1
            share = (image * q).sum(1)
            # what a space that has ended is given from here on is apart from it
            self.small = _bordered(self.small, couple, torch.where(going, share, share.new_ones(())))
            for _ in range(2):  # once leaves what round-off brings back
                image = image - ((self.basis @ image[:, :, None]).mT @ self.basis)[:, 0]
            couple = image.norm(dim=1)
            ended = couple <= 100 * tiny * self.small.abs().amax((1, 2))  # the space holds A g already
            weights, _ = self._weights(radius)
            settled = couple * weights[:, -1].abs() <= forcing * self.norm
            going = going & ~(settled | ended)
            if self.products == min(most, gradient.shape[1]) or not bool(going.any()):
                return
            couple = torch.where(going, couple, 0.0)
            q = torch.where(going[:, None], image, 0.0) / torch.where(going, couple, 1.0)[:, None]
            self.basis = torch.cat([self.basis, q[:, None]], 1)

    def step(self, radius: Tensor) -> tuple[Tensor, Tensor]:
        """(p (B, d), the reduction that the model predicts (B,)) for radius (B,)."""
        weights, less = self._weights(radius)
        return (weights[:, None] @ self.basis)[:, 0], less

    def _weights(self, radius: Tensor) -> tuple[Tensor, Tensor]:
        """p in the basis, (B, j), and the predicted reduction."""
        values, vectors = torch.linalg.eigh(self.small)  # (B, j), (B, j, j)
        c = self.norm[:, None] * vectors[:, 0]  # g in the eigenvectors
        there = c != 0

        def damped(mu: Tensor) -> Tensor:
            return torch.where(there, c / torch.where(there, values + mu[:, None], 1.0), 0.0)

        # mu from where A + mu becomes positive, as far as one can tell
        floor = torch.finfo(values.dtype).eps * values.abs().amax(1) + torch.finfo(values.dtype).tiny
        least = (floor - torch.where(there, values, torch.inf).amin(1)).clamp(min=0)
        low, high = least, least + self.norm / radius
        for _ in range(60):
            middle = (low + high) / 2
            long = damped(middle).norm(dim=1) > radius
            low, high = torch.where(long, middle, low), torch.where(long, high, middle)
        z = -damped(torch.where(damped(least).norm(dim=1) <= radius, least, high))
        less = -(c * z + values * z.square() / 2).sum(1)
        return (vectors @ z[:, :, None])[:, :, 0], less


def _bordered(small: Tensor, couple: Tensor, last: Tensor) -> Tensor:
    """T with one more row and column."""
    j = small.shape[1]
    grown = small.new_zeros(len(small), j + 1, j + 1)
    grown[:, :j, :j] = small
    grown[:, j, j] = last
    if j:
        grown[:, j, j - 1] = grown[:, j - 1, j] = couple
    return grown
