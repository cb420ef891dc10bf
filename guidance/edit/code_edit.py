"""CODE: bring an image that the model would not draw back to what it would, without saying what is wrong with it."""

from typing import Any

import torch
from torch import Tensor

from ...adjoint import Auto, Gradient, sample
from ...solvers import DDIM, SCORE, Addressed, Grid, Method, Model, convert
from ...solvers.broadcast import per_sample
from ...solvers.grid import checked_times
from .base import Edit, seed_of


def code(
    denoiser: Model,
    image: Tensor,
    *,
    grid: Grid | Tensor,
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
    """Encode along the ODE to the level t of the grid's first time, correct there, decode:

        x <- clip(x + a score(x, t) + sqrt(2 a) temperature n),    a = rate sigma(t)^2,    `steps` times

    clip to [alpha limits[0] - width sigma, alpha limits[1] + width sigma], the interval in which a state of
    level t lies if the data lie in `limits`; the encoded state is clipped too.

    Args:
        image: (B, ...) data, at the grid's last time. grid: falling, from the level of the correction
            (higher: stronger) to data.
        steps: 0 encodes, clips and decodes. rate, temperature, width: at least 0; temperature 0 climbs the
            density.

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
    down, process = checked_times(grid, denoiser.process), denoiser.process
    if bool((down[1] > down[0]).any()):
        raise ValueError(
            f"grid: got times rising from {float(down[0].min()):.4g}, expected a grid falling from noise to "
            "data"
        )
    up, back = (method.plan(process, times) for times in (down.flip(0), down))
    noise.check(steps, image)
    alpha, sigma = (per_sample(level(down[0]).to(image), image) for level in (process.alpha, process.sigma))
    low, high = alpha * limits[0] - width * sigma, alpha * limits[1] + width * sigma
    t = down[0].to(image).expand(len(image))
    x = torch.clamp(sample(denoiser, up, image, cond=cond, gradient=gradient), low, high)
    a = rate * sigma**2
    for k in range(steps):
        score = convert(denoiser(x, t, cond), x, denoiser.prediction, SCORE, process, down[0])
        x = torch.clamp(x + a * score + (2 * a).sqrt() * temperature * noise(k, x), low, high)
    return Edit(
        sample(denoiser, back, x, cond=cond, gradient=gradient), x, up.nfe + steps + back.nfe, seed_of(noise)
    )
