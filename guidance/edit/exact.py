"""Inversion that is exact to round-off: through a reversible plan."""

from typing import Any

from torch import Tensor

from ...solvers import Model, Plan, decode, encode
from .base import Edit, guided


def exact_inversion(
    denoiser: Model,
    plan: Plan,
    image: Tensor,
    *,
    source: Any,
    target: Any,
    scale: float | Tensor = 1.0,
    null: Any = None,
) -> Edit:
    """`plan` run from the image to noise under `source`, and undone from its registers under `target`.

    Equal conditions give the image back to round-off, whatever the number of steps.

    Args:
        plan: of a reversible method (EDICT, BDIA, OBELM, ReversibleHeun, Coupled, Rex) on a rising grid, data
            to noise.
        image: (B, ...), the state at the plan's first time.
        scale, null: classifier-free guidance of the way back; equal conditions then give the image only at
            scale 1.

    Raises:
        ValueError: a plan that cannot be inverted (the instruction is named), one that falls.

    Cost: 2 runs. Sources: EDICT arXiv 2211.12446, BDIA 2307.10829, BELM 2410.07273, reversible Heun
    2105.13493, Rex 2502.08834.
    """
    first, last = (min(t) if isinstance(t, tuple) else t for t in (plan.times[0], plan.times[-1]))
    if first > last:
        raise ValueError(
            f"plan: got times from {first:.4g} to {last:.4g}, expected a rising grid, from data to noise; "
            "its undoing is the way back"
        )
    latent = encode(denoiser, plan, image, source)
    out = decode(guided(denoiser, scale, null), plan, latent, target, dtype=image.dtype)
    return Edit(out, latent, 2 * plan.nfe)
