"""FlowEdit: from source to target along the difference of two velocities, without inversion."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...adjoint import Auto, Gradient, PerStep, sample
from ...solvers import FLOW, Addressed, FlowEuler, GivenNoise, Grid, Model, Noise, UniformT
from ...solvers.broadcast import per_sample
from ...solvers.grid import checked_times
from .base import Edit, guided, rectified, seed_of, velocity


class VelocityDifference(Model):
    """The mean over `average` draws n of v_target(z_s + (Z - x), t) - v_source(z_s, t), z_s = (1 - t) x + t n.

    Called with cond = {"image", "source", "target", "step"}; draw j of step k is slot k average + j of
    `noise`.
    """

    def __init__(self, source: Model, target: Model, noise: Noise, average: int) -> None:
        self.source, self.target, self.noise, self.average = source, target, noise, average
        self.process, self.prediction = source.process, FLOW

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        image, total = cond["image"], None
        for j in range(self.average):
            noisy = noised(image, t, self.noise(int(cond["step"]) * self.average + j, image))
            # added last, so that Z = image makes both states equal to the last bit
            difference = velocity(self.target, noisy + (x - image), t, cond["target"]) - velocity(
                self.source, noisy, t, cond["source"]
            )
            total = difference if total is None else total + difference
        assert total is not None
        return total / self.average

    def parameters(self) -> Iterator[Tensor]:
        yield from {id(p): p for model in (self.source, self.target) for p in model.parameters()}.values()

    def networks(self) -> Iterator[nn.Module]:
        yield from {id(n): n for model in (self.source, self.target) for n in model.networks()}.values()


def noised(image: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """(1 - t) image + t noise."""
    t = per_sample(t.to(image), image)
    return (1 - t) * image + t * noise


def flow_edit(
    denoiser: Model,
    image: Tensor,
    *,
    source: Any,
    target: Any,
    noise: Noise | Tensor = Addressed(0),
    grid: Grid | Tensor | Sequence[float] = UniformT(28),
    n_max: int = 24,
    n_min: int = 0,
    n_avg: int = 1,
    source_scale: float | Tensor = 1.0,
    target_scale: float | Tensor = 1.0,
    null: Any = None,
    gradient: Gradient | None = Auto(),
) -> Edit:
    """dZ = (v_target(Z + z_s - x, t) - v_source(z_s, t)) dt from Z = x, by Euler over the last `n_max` of the
    grid's N steps.

    With n_min > 0 the last n_min steps are sampled instead, from Z + z_s - x under the target. Equal
    conditions and scales give the image bit for bit (n_min = 0); two Gaussians of equal covariance exactly
    the translation between them, from t = 1.

    Args:
        image: (B, ...). grid: falling to clean data. noise: fresh at every step, (n_max - n_min) n_avg slots
            and one if n_min > 0.
        n_max: larger edits more. n_avg: draws averaged a step.
        source_scale, target_scale, null: classifier-free guidance (paper: FLUX 1.5 and 5.5, n_max 24 of 28;
            SD3 3.5 and 13.5, 33 of 50).

    Returns:
        An Edit. Gradients reach everything. Raises ValueError: another process, steps out of range, noise
            that does not fit.

    Cost: 2 n_avg calls a step, one in the last n_min. Source: Kulikov et al. 2024, arXiv 2412.08629,
    algorithm 1.
    """
    rectified("flow_edit", denoiser)
    times = checked_times(grid, denoiser.process)
    count = len(times) - 1
    if bool((times[1] > times[0]).any()):
        raise ValueError(
            f"grid: got times rising from {float(times[0].min()):.4g}, expected a grid falling from noise to "
            "data"
        )
    if not 0 <= n_min <= n_max <= count or n_max < 1 or n_avg < 1:
        raise ValueError(
            f"flow_edit: got n_min={n_min}, n_max={n_max}, n_avg={n_avg} on {count} steps, expected 0 <= "
            "n_min <= n_max <= steps, n_max and n_avg at least 1"
        )
    draws = GivenNoise(noise) if isinstance(noise, Tensor) else noise
    slots = (n_max - n_min) * n_avg + (n_min > 0)
    draws.check(slots, image)
    here, target_model, z = guided(denoiser, source_scale, null), guided(denoiser, target_scale, null), image
    if n_max > n_min:
        plan = FlowEuler().plan(denoiser.process, times[count - n_max : count - n_min + 1])
        cond = {
            "image": image,
            "source": source,
            "target": target,
            "step": PerStep(torch.arange(n_max - n_min)),
        }
        z = sample(
            VelocityDifference(here, target_model, draws, n_avg), plan, image, cond=cond, gradient=gradient
        )
    if n_min:
        noisy = noised(image, times[count - n_min].to(image.device), draws(slots - 1, image))
        z = sample(
            target_model,
            FlowEuler().plan(denoiser.process, times[count - n_min :]),
            noisy + (z - image),
            cond=target,
            gradient=gradient,
        )
    return Edit(z, None, 2 * n_avg * (n_max - n_min) + n_min, seed_of(noise))
