"""Gaussian steps: log-probability and KL divergence, in nats, one number per sample."""

import math

import torch
from torch import Tensor


def gaussian_logprob(x: Tensor, m: Tensor, s: Tensor | float, mean: bool = False) -> Tensor:
    """log N(x; m, s^2 I) = -|x - m|^2/(2 s^2) - D log s - (D/2) log 2 pi, (B,), in nats.

    Args:
        x, m: (B, ...) with D numbers per sample. s: > 0, a number, or (B, 1, ...) for a value per sample.
        mean: divide by D, as DDPO, DPOK and Flow-GRPO do. A clip range of 1e-4 in these papers is one of the
            mean: the same number is D times as wide in nats.

    Returns:
        In the inputs' dtype, float32 at least. Differentiable in x and m.
    """
    wide = torch.promote_types(torch.promote_types(x.dtype, m.dtype), torch.float32)
    size = x[0].numel()
    scale = torch.as_tensor(s, dtype=wide, device=x.device)
    if not bool((scale > 0).all()):
        raise ValueError(
            f"gaussian_logprob: got s={s}, expected s > 0; leave out deterministic steps "
            "(Transitions.excluded)"
        )
    log_scale = scale.log().reshape(-1) if scale.ndim else scale.log()
    off = ((x.to(wide) - m.to(wide)) / scale).flatten(1)
    value = -0.5 * off.square().sum(1) - size * (log_scale + 0.5 * math.log(2 * math.pi))
    return value / size if mean else value


def gaussian_kl(m: Tensor, m0: Tensor, s: Tensor | float) -> Tensor:
    """KL(N(m, s^2 I) | N(m0, s^2 I)) = |m - m0|^2/(2 s^2), (B,), in nats: exact, the variances are equal.

    Flow-GRPO (arXiv 2505.05470) divides by 2 g^2 instead of 2 s^2 = 2 g^2 |dt| and takes the mean over D: its
    beta is |dt|/D times a weight in nats.
    """
    wide = torch.promote_types(torch.promote_types(m.dtype, m0.dtype), torch.float32)
    scale = torch.as_tensor(s, dtype=wide, device=m.device)
    return 0.5 * ((m.to(wide) - m0.to(wide)) / scale).flatten(1).square().sum(1)
