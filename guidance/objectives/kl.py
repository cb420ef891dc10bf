"""KL divergence between the paths of two chains, and the two gradients that are taken of it."""

import enum
from collections.abc import Sequence

import torch
from torch import Tensor

from .likelihood import gaussian_kl


class KL(enum.Enum):
    """Which gradient of the penalty is taken.

    PATH: that of the path KL E[sum_k KL_k]: what a step does to the states visited later is counted. Its
    optimum is the reference tilted by exp(r/beta), as far as the chain is memoryless and Gaussian steps can
    express it.

    PER_STEP: sum_k grad KL_k at visited states held fixed, as DPOK, Flow-GRPO and DRaFT+ do. It is a
    surrogate, not the gradient of the path KL: it comes to rest somewhere else.
    """

    PATH = "path"
    PER_STEP = "per step"


def path_kl(means: Sequence[Tensor], base: Sequence[Tensor], stds: Sequence[Tensor | float]) -> Tensor:
    """sum_k |m_k - m0_k|^2/(2 s_k^2), (B,), in nats: its mean over visited paths is the KL between the two
    laws of paths.

    Steps with s_k = 0 have no density and must be left out. Differentiable in the means.
    """
    return torch.stack([gaussian_kl(m, m0, s) for m, m0, s in zip(means, base, stds, strict=True)]).sum(0)


def to_go(steps: Tensor) -> Tensor:
    """sum_{j > k} of `steps` (K, B) over its first axis: what is still to come after step k."""
    return steps.flip(0).cumsum(0).flip(0) - steps


def path_kl_loss(logprob: Tensor, kl: Tensor, later: Tensor) -> Tensor:
    """kl_k + log p_k sg(sum_{j > k} KL_j), (B,), sg: held constant. Summed over steps its gradient is an
    unbiased one of the path KL:

        grad E[sum_k KL_k] = E[ sum_k grad KL_k + sum_k grad log p_k sum_{j > k} KL_j ]

    The second sum is what a change of step k does to the states visited later, and so to their KLs: the
    score-function rule, with the KL still to come in place of a reward.

    Args:
        logprob: (B,) log p(x_{k+1} | x_k) of a step, a sum in nats, with its graph.
        kl: (B,) its KL_k with its graph.
        later: (B,) what `to_go` gives for step k; any constant may be subtracted to lower the variance.
    """
    return kl + logprob * later.detach()
