"""What the editing methods share: their result, the model they edit with, and what they check before any work."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...adjoint import Auto, Gradient
from ...adjoint.replay.cond import leaves
from ...solvers import (
    FLOW,
    Addressed,
    ClassifierFree,
    GivenNoise,
    Model,
    Noise,
    Process,
    RectifiedFlow,
    convert,
)
from ...solvers.broadcast import per_sample
from ...solvers.grid import Times, checked_times
from ...solvers.notebook import Shown
from ...solvers.process import as_time


@dataclass(frozen=True, eq=False, repr=False)
class Edit(Shown):
    """An edited batch and how it came about.

    Attributes:
        sample: (B, ...) the result.
        latent: the noise that stands for the source, (B, ...), or the registers of a reversible plan; None
            without an inversion.
        nfe: calls of the denoiser (one under `ClassifierFree` is two of the network).
        seed: of the noise, where it has one.
        noise: the draws that a stochastic plan needs to give the source back.
        residual: (B,) largest error left by a fixed point.
    """

    sample: Tensor
    latent: Any
    nfe: int
    seed: int | None = None
    noise: GivenNoise | None = None
    residual: Tensor | None = None


def guided(denoiser: Model, scale: float | Tensor, null: Any) -> Model:
    """`denoiser` under classifier-free guidance; itself at scale 1, which costs half."""
    if isinstance(scale, float | int) and scale == 1:
        return denoiser
    return ClassifierFree(denoiser, scale, null)


def as_velocity(out: Tensor, model: Model, x: Tensor, t: Tensor) -> Tensor:
    """dx/dt of the probability flow from what `model` predicted at (x, t)."""
    return out if model.prediction == FLOW else convert(out, x, model.prediction, FLOW, model.process, t)


def alpha_sigma(process: Process, t: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    """alpha(t) and sigma(t), shaped to broadcast over `like` (B, ...)."""
    t = as_time(t)
    return per_sample(process.alpha(t).to(like), like), per_sample(process.sigma(t).to(like), like)


def falling_times(grid: Times, process: Process) -> Tensor:
    """The grid's nodes; ValueError unless they fall from noise to data."""
    times = checked_times(grid, process)
    if bool((times[1] > times[0]).any()):
        raise ValueError(
            f"grid: got times rising from {float(times[0].min()):.4g}, expected a grid falling from noise to "
            "data, as for sampling; a method that inverts goes along it backwards by itself"
        )
    return times


def check_rectified(name: str, model: Model) -> None:
    """Raise ValueError unless `model` is a rectified flow."""
    if not isinstance(model.process, RectifiedFlow):
        raise ValueError(
            f"{name}: got a denoiser on {model.process}, expected RectifiedFlow(); wrap the network in one, "
            "or take ddim_inversion, cycle_diffusion or sdedit, which work on any process"
        )


def where_wanted(gradient: Gradient | None, model: Model, x: Tensor, cond: Any) -> Gradient | None:
    """`gradient`, or `Auto()` for a pass that nothing with a gradient enters.

    `sample` refuses a strategy asked for in vain; of an edit's two passes one may well have nothing to
    differentiate (the inversion, where only the target's conditioning wants a gradient).
    """
    if gradient is None:
        return None
    entering = (x, *leaves(cond), *model.parameters())
    wanted = torch.is_grad_enabled() and any(value.requires_grad for value in entering)
    return gradient if wanted else Auto()


def starting(name: str, noise: Addressed | Tensor, image: Tensor) -> Tensor:
    """The starting noise of a source, or the noise itself; `name` it in the refusal of another shape."""
    if isinstance(noise, Addressed):
        return noise.initial(image)
    if noise.shape != image.shape:
        raise ValueError(
            f"noise: got {name} of shape {tuple(noise.shape)}, expected the image's {tuple(image.shape)}; draw it with "
            "torch.randn_like(image)"
        )
    return noise


def seed_of(noise: Noise | Tensor | None) -> int | None:
    """The seed of addressed noise; None for draws that were given or recorded."""
    return noise.seed if isinstance(noise, Addressed) else None
