"""SDE-Drag: move what is under a point to another by cutting and pasting in the noise of an image."""

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ...adjoint import Auto, Gradient, sample
from ...adjoint.arguments import check_serves
from ...solvers import Addressed, Model, Plan, recover_noise
from .base import Edit, seed_of

Point = tuple[int, int]


def sde_drag(
    denoiser: Model,
    plan: Plan,
    image: Tensor,
    *,
    source: Point,
    target: Point,
    cond: Any = None,
    radius: int = 3,
    stride: int = 2,
    keep: float = 0.3,
    gain: float = 1.1,
    noise: Addressed = Addressed(0),
    gradient: Gradient | None = Auto(),
) -> Edit:
    """Rounds of: recover start and noises of `plan`, move a square of the start `stride` pixels towards
    `target`, run again.

        start[old square] <- keep P + sqrt(1 - keep^2) n;    start[new square] <- gain P,    P the old square

    Args:
        plan: stochastic, from the level where it is edited (paper: t = 0.6) down to sigma > 0.
        image: (B, C, H, W). source, target: (row, column) of the squares' centres. radius: half their side,
            without the centre.
        keep: in [0, 1]. gain: above 1 strengthens the moved content. noise: round r draws its path with
            stream + 1 + r.
        gradient: the strategy that differentiates the run; None: it only samples.

    Returns:
        An Edit with the last round's start and noises. Equal points give the image back. Gradients reach the
        last round's start and noise only.

    Raises:
        ValueError: an image of another shape, squares that leave it, numbers out of range.

    Cost: two runs for each round, ceil(largest distance / stride) rounds. Source: Nie et al. 2023, arXiv
    2311.01410, algorithm 2 (without its LoRA fine-tuning and its annealed guidance).
    """
    _check(image, source, target, radius, stride, keep)
    check_serves(gradient, plan)
    out, result = image, Edit(image, None, 0, seed_of(noise))
    for r, (old, new) in enumerate(pairwise(_centres(source, target, stride))):
        drawn = replace(noise, stream=noise.stream + 1 + r)
        with torch.no_grad():
            start, draws = recover_noise(denoiser, plan, out.detach(), cond=cond, noise=drawn)
        here, there = (tuple(slice(c - radius, c + radius + 1) for c in point) for point in (old, new))
        patch, moved = start[..., *here], start.clone()
        moved[..., *here] = keep * patch + (1 - keep**2) ** 0.5 * drawn.initial(start)[..., *here]
        moved[..., *there] = gain * patch
        out = sample(denoiser, plan, moved, cond=cond, noise=draws, gradient=gradient)
        result = Edit(out, moved, 2 * plan.nfe * (r + 1), noise.seed, draws)
    return result


def _centres(source: Point, target: Point, stride: int) -> list[Point]:
    """Pixels on the straight line from `source` to `target`, neither coordinate moving more than `stride` at once."""
    down, right = target[0] - source[0], target[1] - source[1]
    rounds = math.ceil(max(abs(down), abs(right)) / stride)
    moved = [
        (round(source[0] + down * r / rounds), round(source[1] + right * r / rounds))
        for r in range(1, rounds + 1)
    ]
    return [source, *moved]


def _check(image: Tensor, source: Point, target: Point, radius: int, stride: int, keep: float) -> None:
    if image.ndim != 4:
        raise ValueError(f"image: got shape {tuple(image.shape)}, expected (B, C, H, W)")
    if radius < 0 or stride < 1 or not 0 <= keep <= 1:
        raise ValueError(
            f"sde_drag: got radius={radius}, stride={stride}, keep={keep}, expected at least 0, at least 1, "
            "in [0, 1]"
        )
    for name, point in (("source", source), ("target", target)):
        if not all(radius <= c < size - radius for c, size in zip(point, image.shape[2:], strict=True)):
            raise ValueError(
                f"{name}: got {point} with radius {radius}, expected the square inside "
                f"{tuple(image.shape[2:])}"
            )
