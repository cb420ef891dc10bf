"""What every editing method returns, and the model that it edits with."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...solvers import FLOW, Addressed, ClassifierFree, GivenNoise, Model, Noise, RectifiedFlow, convert


@dataclass(frozen=True, eq=False)
class Edit:
    """An edited batch and how it came about.

    Attributes:
        sample: (B, ...) the result.
        latent: what the source was inverted to, (B, ...), or the registers of a reversible plan; None without
            an inversion.
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
    return (
        denoiser if isinstance(scale, float | int) and scale == 1 else ClassifierFree(denoiser, scale, null)
    )


def velocity(model: Model, x: Tensor, t: Tensor, cond: Any) -> Tensor:
    """dx/dt of the probability flow, whatever `model` predicts."""
    out = model(x, t, cond)
    return out if model.prediction == FLOW else convert(out, x, model.prediction, FLOW, model.process, t)


def rectified(name: str, model: Model) -> None:
    """Raise ValueError unless `model` is a rectified flow."""
    if not isinstance(model.process, RectifiedFlow):
        raise ValueError(
            f"{name}: got a denoiser on {model.process}, expected RectifiedFlow(); wrap the network in one, "
            "or take ddim_inversion, cycle_diffusion or sdedit, which work on any process"
        )


def seed_of(noise: Noise | Tensor | None) -> int | None:
    """The seed of a counter."""
    return noise.seed if isinstance(noise, Addressed) else None
