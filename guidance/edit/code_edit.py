"""CODE: bring an image the model would not draw back to one it would, without being told what is wrong with it."""

from typing import Any

import torch
from torch import Tensor

from ...adjoint import Auto, Gradient, sample
from ...adjoint.arguments import check_serves
from ...solvers import DDIM, SCORE, Addressed, Method, Model, convert
from ...solvers.grid import Times
from .base import Edit, alpha_sigma, falling_times, seed_of


def code(
    denoiser: Model,
    image: Tensor,
    *,
    grid: Times,
    cond: Any = None,
    method: Method = DDIM(),
    steps: int = 10,
    rate: float = 0.05,
    temperature: float = 1.0,
    width: float = 2.0,
    limits: tuple[float, float] = (-1.0, 1.0),
    noise: Addressed = Addressed(0),
    gradient: Gradient | None = Auto(),
) -> Edit:
    """Encode along the ODE to the grid's first time t, correct there by Langevin steps, decode:

        x <- clip(x + a score(x, t) + sqrt(2 a) temperature n),    a = rate sigma(t)^2,    `steps` times

    The score pulls what the model finds improbable at this noise level back to where its data lie, whatever
    it is. clip to [alpha limits[0] - width sigma, alpha limits[1] + width sigma], where a state at t lies if
    the data lie in `limits`; the encoded state is clipped too.

    Args:
        image: (B, ...) data, at the grid's last time. grid: falling, from the level of the correction
            (higher: stronger) to data.
        steps: 0 encodes, clips and decodes. rate, temperature, width: at least 0; temperature 0 climbs the
            density.
        gradient: the strategy that differentiates the run, both runs along the ODE; None: they only sample.

    Returns:
        An Edit with the corrected state as latent. Raises ValueError: numbers out of range, a rising grid.

    Cost: 2 N + steps calls. Source: van Delft et al. 2024, CODE, arXiv 2408.12418, written from its
    description: check constants against the paper before comparing with it.
    """
    if steps < 0 or not min(rate, temperature, width) >= 0 or not limits[0] < limits[1]:
        raise ValueError(
            f"code: got steps={steps}, rate={rate}, temperature={temperature}, width={width}, "
            f"limits={limits}, expected numbers at least 0 and rising limits"
        )
    process = denoiser.process
    times = falling_times(grid, process)
    up, down = method.along(process, times.flip(0)), method.along(process, times)
    check_serves(gradient, up, down)
    noise.check(steps, image)
    alpha, sigma = alpha_sigma(process, times[0], image)
    low, high = alpha * limits[0] - width * sigma, alpha * limits[1] + width * sigma
    t = times[0].to(image).expand(len(image))
    x = torch.clamp(sample(denoiser, up, image, cond=cond, gradient=gradient), low, high)
    a = rate * sigma**2
    for k in range(steps):
        score = convert(denoiser(x, t, cond), x, denoiser.prediction, SCORE, process, times[0])
        x = torch.clamp(x + a * score + (2 * a).sqrt() * temperature * noise(k, x), low, high)
    out = sample(denoiser, down, x, cond=cond, gradient=gradient)
    return Edit(out, x, up.nfe + steps + down.nfe, seed_of(noise))
