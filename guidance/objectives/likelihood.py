"""Gaussian steps: log-probability and KL divergence, in nats, one number per sample."""

import math

import torch
from torch import Tensor

from ...solvers.kinds import check_kind, described


def gaussian_logprob(x: Tensor, m: Tensor, s: Tensor | float, mean: bool = False) -> Tensor:
    """log N(x; m, s^2 I) = -|x - m|^2/(2 s^2) - D log s - (D/2) log 2 pi, (B,), in nats.

    Args:
        x, m: (B, ...) with D numbers per sample. s: > 0, a number, or (B, 1, ...) for a value per sample.
        mean: divide by D, as DDPO, DPOK and Flow-GRPO do. A clip range of 1e-4 in these papers is one of the
            mean: the same number is D times as wide in nats.

    Returns:
        In the inputs' dtype, float32 at least. Differentiable in x and m.
    """
    wide, scale = _common(("x", x), ("m", m), s)
    size = x[0].numel()
    if not bool(((scale > 0) & scale.isfinite()).all()):
        raise ValueError(
            f"gaussian_logprob: got s={s}, expected s > 0 and finite; leave out deterministic steps "
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
    wide, scale = _common(("m", m), ("m0", m0), s)
    return 0.5 * ((m.to(wide) - m0.to(wide)) / scale).flatten(1).square().sum(1)


def _common(
    one: tuple[str, Tensor], other: tuple[str, Tensor], s: Tensor | float
) -> tuple[torch.dtype, Tensor]:
    """The dtype to compute in, and s as a tensor of it. Raises where the two points, by name, or s do not fit: all
    would broadcast to some number.
    """
    for name, value in (one, other):
        check_kind(name, value, Tensor, "a tensor (B, ...) of numbers; torch.as_tensor(...) makes one")
        if value.ndim < 2 or value.shape != one[1].shape or value.is_complex() or value.is_meta:
            shape = f", that of {one[0]} {tuple(one[1].shape)}" if name == other[0] else ""
            raise ValueError(f"{name}: got {described(value)}, expected real numbers (B, ...){shape}")
    x = one[1]
    check_kind("s", s, (int, float, Tensor), "a number, or a tensor (B, 1, ...) of one a sample")
    wide = torch.promote_types(torch.promote_types(x.dtype, other[1].dtype), torch.float32)
    scale = torch.as_tensor(s, dtype=wide, device=x.device)
    if scale.ndim and tuple(scale.shape) not in [(rows, *(1,) * (x.ndim - 1)) for rows in (1, len(x))]:
        raise ValueError(
            f"s: got shape {tuple(scale.shape)}, expected a number, or {(len(x), *(1,) * (x.ndim - 1))}: one for each "
            "sample"
        )
    return wide, scale
