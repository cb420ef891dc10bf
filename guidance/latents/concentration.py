"""Concentration regulariser: how improbable a noise is, by what the norm cannot see."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .priors import Prior


@dataclass(frozen=True)
class Concentration(Prior):
    """-weight mean over permutations of log p_1 + log p_2, a sample's noise cut into n vectors z_i of k numbers:

        p_1 = min(1, 2 exp(-n M_1^2 / 2k)),                                          M_1 = |mean_i z_i|
        p_2 = min(1, exp(-n max(sqrt(1 + M_2) - 1 - sqrt(k/n), 0)^2 / 2)),          M_2 = |mean_i z_i z_i^T - I|_2

    bounds on the chance that standard normal noise is so far from mean 0 and covariance I. Zero, with zero
    gradient, on most Gaussian draws; large on a constant or repeated pattern that has the right norm. What is
    left over after n k numbers (another set under every permutation) is not looked at by that permutation.

    Args:
        size: k.
        permutations: how many beside the identity, drawn from `seed`, the same for all samples.

    Source: Tang et al. 2024, arXiv 2405.18881, section 3.2. Cost: O(permutations d k) a sample.
    """

    weight: float = 1.0
    size: int = 4
    permutations: int = 16
    seed: int = 0

    def __call__(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        d, k = flat.shape[1], self.size
        n = d // k
        if n < 1:
            raise ValueError(
                f"Concentration: got {d} numbers a sample, expected at least size={k}; lower size"
            )
        generator = torch.Generator().manual_seed(self.seed)
        orders = [
            torch.arange(d),
            *(torch.randperm(d, generator=generator) for _ in range(self.permutations)),
        ]
        total = flat.new_zeros(len(flat))
        for order in orders:
            z = flat[:, order[: n * k].to(flat.device)].reshape(-1, n, k)
            m1_squared = z.mean(1).square().sum(1)
            log_p1 = (math.log(2) - n * m1_squared / (2 * k)).clamp(max=0)
            m2 = torch.linalg.matrix_norm(z.mT @ z / n - torch.eye(k, dtype=z.dtype, device=z.device), 2)
            excess = ((1 + m2).sqrt() - 1 - math.sqrt(k / n)).clamp(min=0)
            total = total - log_p1 + n * excess.square() / 2  # log p_2 = -n excess^2 / 2
        return self.weight * total / len(orders)
