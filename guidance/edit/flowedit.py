"""FlowEdit: from source to target along the difference of two velocities, without inversion."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ...adjoint import Auto, Gradient, PerStep, sample
from ...adjoint.arguments import check_serves
from ...solvers import FLOW, Addressed, FlowEuler, GivenNoise, Model, Noise, UniformT
from ...solvers.broadcast import per_sample
from ...solvers.checked import checked
from ...solvers.grid import Times
from ...solvers.opening import carried
from ...solvers.wanted import Samples
from .base import Edit, as_velocity, check_rectified, falling_times, guided, seed_of


class VelocityDifference(Model):
    """The mean over `average` draws n of v_target(z_s + (Z - x), t) - v_source(z_s, t), z_s = (1 - t) x + t n.

    The state Z is the image x with what has been edited so far; the same change is put upon the noised image
    z_s, and the two velocities differ by what the target asks for. Called with cond = {"image", "source",
    "target", "step"}; draw j of step k is slot k average + j of `noise`.
    """

    def __init__(self, source: Model, target: Model, noise: Noise, average: int) -> None:
        self.source, self.target, self.noise, self.average = source, target, noise, average
        self.process, self.prediction = source.process, FLOW

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        image, total = cond["image"], None
        for j in range(self.average):
            noisy = noised(image, t, self.noise(int(cond["step"]) * self.average + j, image))
            changed = noisy + (x - image)  # in this order Z = image gives `noisy` to the last bit
            wanted = as_velocity(self.target(changed, t, cond["target"]), self.target, changed, t)
            present = as_velocity(self.source(noisy, t, cond["source"]), self.source, noisy, t)
            difference = wanted - present
            total = difference if total is None else total + difference
        assert total is not None
        return total / self.average

    def parameters(self) -> Iterator[Tensor]:
        yield from {id(p): p for model in (self.source, self.target) for p in model.parameters()}.values()

    def check_times(self, times: Tensor) -> None:
        self.source.check_times(times)
        self.target.check_times(times)

    def networks(self) -> Iterator[nn.Module]:
        yield from {id(n): n for model in (self.source, self.target) for n in model.networks()}.values()


def noised(image: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """(1 - t) image + t noise."""
    t = per_sample(t.to(image), image)
    return (1 - t) * image + t * noise


@checked
def flow_edit(
    denoiser: Model,
    image: Samples,
    *,
    source: Any,
    target: Any,
    noise: Noise | Tensor = Addressed(0),
    grid: Times = UniformT(28),
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
        gradient: the strategy that differentiates the run; None: it only samples.

    Returns:
        An Edit. Gradients reach everything. Raises ValueError: another process, steps out of range, noise
            that does not fit.

    Cost: 2 n_avg calls a step, one in the last n_min. Source: Kulikov et al. 2024, arXiv 2412.08629,
    algorithm 1.
    """
    check_rectified("flow_edit", denoiser)
    times = falling_times(grid, denoiser.process)
    count = len(times) - 1
    if not 0 <= n_min <= n_max <= count or n_max < 1 or n_avg < 1:
        raise ValueError(
            f"flow_edit: got n_min={n_min}, n_max={n_max}, n_avg={n_avg} on {count} steps, expected 0 <= "
            "n_min <= n_max <= steps, n_max and n_avg at least 1"
        )
    check_serves(gradient, FlowEuler().along(denoiser.process, times))
    image = carried(image)
    draws = GivenNoise(noise) if isinstance(noise, Tensor) else noise
    slots = (n_max - n_min) * n_avg + (n_min > 0)
    draws.check(slots, image)
    begin, turn = count - n_max, count - n_min  # edited from node `begin` to `turn`, sampled from there on
    from_source, to_target = guided(denoiser, source_scale, null), guided(denoiser, target_scale, null)
    z = image
    if begin < turn:
        plan = FlowEuler().along(denoiser.process, times[begin : turn + 1])
        difference = VelocityDifference(from_source, to_target, draws, n_avg)
        steps = PerStep(torch.arange(turn - begin))
        cond = {"image": image, "source": source, "target": target, "step": steps}
        z = sample(difference, plan, image, cond=cond, gradient=gradient)
    if n_min:
        plan = FlowEuler().along(denoiser.process, times[turn:])
        noisy = noised(image, times[turn].to(image.device), draws(slots - 1, image))
        z = sample(to_target, plan, noisy + (z - image), cond=target, gradient=gradient)
    return Edit(z, None, 2 * n_avg * (n_max - n_min) + n_min, seed_of(noise))
