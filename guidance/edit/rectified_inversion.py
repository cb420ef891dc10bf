"""RF-Inversion: an image to structured noise and back under another condition, by controlled ODEs."""

from typing import Any

from torch import Tensor

from ...adjoint import Auto, Gradient, sample
from ...adjoint.arguments import check_serves
from ...solvers import Addressed, FlowEuler, Method, Model, Noise, UniformT
from ...solvers.checked import checked
from ...solvers.grid import Times
from ...solvers.wanted import Samples
from .base import Edit, check_rectified, falling_times, guided, seed_of, starting
from .controlled_pass import controlled_pass
from .schedule import Schedule, Strength

GAMMA, ETA, GRID = 0.5, Schedule(0.9, stop=0.25), UniformT(28)  # the paper's: eta for 7 of 28 steps


@checked
def rf_inversion(
    denoiser: Model,
    image: Samples,
    *,
    target: Any,
    source: Any = None,
    gamma: Strength = GAMMA,
    eta: Strength = ETA,
    grid: Times = GRID,
    method: Method = FlowEuler(),
    noise: Addressed | Tensor = Addressed(0),
    scale: float | Tensor = 1.0,
    null: Any = None,
    gradient: Gradient | None = Auto(),
) -> Edit:
    """Edit `image`: `rf_invert` under `source`, then `rf_regenerate` under `target`.

    gamma = 1 makes the latent exactly y1, eta = 1 the result exactly the image; gamma = eta = 0 is the plain
    round trip. Faithfulness comes from eta's window, editability from where it stops.

    Args:
        image: (B, ...) clean data.
        target, source: conditioning of the edit and of the image; the paper inverts under the null prompt
            (None).
        gamma, eta: in [0, 1]: a number, a Schedule, or a tensor (N,) or (N, B) that receives its gradient.
        grid: falling, from noise to data; inverted along the same nodes.
        noise: y1 is its starting noise; or y1 itself (B, ...).
        scale, null: classifier-free guidance of the way back.
        gradient: the strategy that differentiates the run; None: it only samples.

    Returns:
        An Edit with the structured noise as latent. Gradients reach image, y1, both conditions, gamma, eta,
        scale and weights.

    Raises:
        ValueError: before any network call: another process than RectifiedFlow, a rising grid, strengths
            outside [0, 1], shapes that do not fit, a method that calls the network where the controller ends.

    Cost: 2 N calls for Euler. Source: Rout et al. 2024, arXiv 2410.10792, section 3 (defaults: gamma 0.5, eta
    0.9 for 7 of 28 steps).
    """
    times = _nodes(denoiser, grid)
    up = controlled_pass(
        denoiser, method, times.flip(0), "gamma", gamma, starting("y1", noise, image), source
    )
    down = controlled_pass(guided(denoiser, scale, null), method, times, "eta", eta, image, target)
    check_serves(gradient, up.plan, down.plan)
    latent = sample(up.model, up.plan, image, cond=up.cond, gradient=up.strategy(gradient, image))
    out = sample(down.model, down.plan, latent, cond=down.cond, gradient=down.strategy(gradient, latent))
    return Edit(out, latent, up.plan.nfe + down.plan.nfe, seed_of(noise))


@checked
def rf_invert(
    denoiser: Model,
    image: Samples,
    *,
    cond: Any = None,
    gamma: Strength = GAMMA,
    grid: Times = GRID,
    method: Method = FlowEuler(),
    noise: Addressed | Tensor = Addressed(0),
    gradient: Gradient | None = Auto(),
) -> Tensor:
    """dY = [u + gamma ((y1 - Y)/(1 - t) - u)] dt from the image at the grid's last time up to its first:
    structured noise.

    Arguments, source and errors as `rf_inversion`. Cost: one run.
    """
    up = controlled_pass(
        denoiser, method, _nodes(denoiser, grid).flip(0), "gamma", gamma, starting("y1", noise, image), cond
    )
    return sample(up.model, up.plan, image, cond=up.cond, gradient=up.strategy(gradient, image))


@checked
def rf_regenerate(
    denoiser: Model,
    latent: Samples,
    image: Samples,
    *,
    cond: Any,
    eta: Strength = ETA,
    grid: Times = GRID,
    method: Method = FlowEuler(),
    noise: Noise | Tensor | None = None,
    scale: float | Tensor = 1.0,
    null: Any = None,
    gradient: Gradient | None = Auto(),
) -> Tensor:
    """dX = [w + eta ((y0 - X)/(1 - s) - w)] ds, w = -u, s = 1 - t, from `latent` to clean data; y0 is `image`.

    A stochastic method (`EulerMaruyama()` is the paper's rectified SDE, theorem 3.5) needs eta = 0: only
    there are the SDE's marginals the ODE's, since the model has the score of the uncontrolled process.
    Arguments, source and errors as `rf_inversion`; `noise` is the stochastic method's. Cost: one run.
    """
    if image.shape != latent.shape:
        raise ValueError(
            f"image: got shape {tuple(image.shape)}, expected the latent's {tuple(latent.shape)}"
        )
    down = controlled_pass(
        guided(denoiser, scale, null), method, _nodes(denoiser, grid), "eta", eta, image, cond
    )
    return sample(
        down.model, down.plan, latent, cond=down.cond, noise=noise, gradient=down.strategy(gradient, latent)
    )


def _nodes(denoiser: Model, grid: Times) -> Tensor:
    check_rectified("rf_inversion", denoiser)
    return falling_times(grid, denoiser.process)
