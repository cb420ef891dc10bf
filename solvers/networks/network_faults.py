"""Faults of a network that no sampler sees and every sample or gradient shows."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ..model import Denoiser
from ..noise import Addressed

DIRECTIONS = 4  # directions along which the gradient is compared with finite differences


def network_faults(denoiser: Denoiser, x0: Tensor, time: float, eps: Tensor, cond: Any) -> tuple[str, ...]:
    """In words: two calls that differ, a sample that depends on its batch mates, a gradient that is not the
    network's own; () for a network without these.
    """
    process = denoiser.process
    x = process.alpha(time).to(x0) * x0 + process.sigma(time).to(x0) * eps
    t = x.new_full((len(x),), time)
    with torch.no_grad():
        out = denoiser(x, t, cond)
        size = float(out.double().norm()) or 1.0
        again = float((denoiser(x, t, cond) - out).double().norm()) / size
        if again > 1e-3:
            return (
                f"random: two calls at one state differ by {again:.1%}, expected the same; call network.eval() where "
                "dropout or batch normalisation is in train mode",
            )
        half = len(x) // 2
        apart = denoiser(x[:half], t[:half], _first(cond, half, len(x)))
        mixed = float((apart - out[:half]).double().norm()) / size
    found = []
    if mixed > 1e-2:
        found.append(
            f"mixed batch: a sample changes by {mixed:.1%} with its batch mates, expected each by itself; normalise "
            "over channels or pixels, and call network.eval()"
        )
    off = _gradient_error(denoiser, x, t, cond)
    if off > 0.05:
        found.append(
            f"gradient: d output / dx is off by {off:.1%} of finite differences, expected the same; look for no_grad, "
            "detach, .data, rounding or numpy inside the network"
        )
    return tuple(found)


def _first(cond: Any, few: int, many: int) -> Any:
    """The conditioning of the first `few` of `many` samples."""
    return tree_map(
        lambda leaf: leaf[:few] if isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == many else leaf,
        cond,
    )


def _gradient_error(denoiser: Denoiser, x: Tensor, t: Tensor, cond: Any) -> float:
    """|g - g*| / |g*| with g the gradient of w . out at x for a random w, and g* the true one.

    Along a direction u ~ N(0, I) the two slopes differ by (g - g*) . u, whose mean square is |g - g*|^2.
    """
    draw = Addressed(1)
    w, step = draw(0, x), 1e-2 * float(x.double().square().mean().sqrt())

    def value(at: Tensor) -> Tensor:
        return (w * denoiser(at, t, cond)).double().sum()

    with torch.enable_grad():
        leaf = x.clone().requires_grad_()
        total = value(leaf)
        grad = torch.autograd.grad(total, leaf)[0] if total.requires_grad else torch.zeros_like(x)
    missed, true = 0.0, 0.0
    with torch.no_grad():
        for k in range(DIRECTIONS):
            u = draw(k + 1, x)
            slope = float((value(x + step * u) - value(x - step * u)) / (2 * step))
            missed += (slope - float((grad * u).double().sum())) ** 2
            true += slope**2
    if not true:  # a value that does not move, and perhaps a gradient all the same
        return math.inf if missed else 0.0
    return (missed / true) ** 0.5
