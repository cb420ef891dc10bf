"""RF-Inversion: an image to structured noise and back under another condition, by controlled ODEs."""

from bisect import bisect_right
from typing import Any

import torch
from torch import Tensor

from ...adjoint import Auto, Gradient, sample
from ...solvers import Addressed, Evaluate, FlowEuler, Method, Model, Noise, Plan, UniformT
from ...solvers.grid import Times, checked_times
from .base import Edit, guided, rectified, seed_of
from .controlled import Controlled
from .schedule import Schedule, Strength, strengths


def rf_inversion(
    denoiser: Model,
    image: Tensor,
    *,
    target: Any,
    source: Any = None,
    gamma: Strength = 0.5,
    eta: Strength = Schedule(0.9, stop=0.25),
    grid: Times = UniformT(28),
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

    Returns:
        An Edit with the structured noise as latent. Gradients reach image, y1, both conditions, gamma, eta,
        scale and weights.

    Cost: 2 N calls for Euler. Source: Rout et al. 2024, arXiv 2410.10792, section 3 (defaults: gamma 0.5, eta
    0.9 for 7 of 28 steps).
    """
    back = _falling(denoiser, grid)
    strengths("eta", eta, len(back) - 1, image)  # refused before any work
    latent = rf_invert(
        denoiser, image, cond=source, gamma=gamma, grid=back, method=method, noise=noise, gradient=gradient
    )
    out = rf_regenerate(
        denoiser,
        latent,
        image,
        cond=target,
        eta=eta,
        grid=back,
        method=method,
        scale=scale,
        null=null,
        gradient=gradient,
    )
    return Edit(out, latent, 2 * method.plan(denoiser.process, back).nfe, seed_of(noise))


def rf_invert(
    denoiser: Model,
    image: Tensor,
    *,
    cond: Any = None,
    gamma: Strength = 0.5,
    grid: Times = UniformT(28),
    method: Method = FlowEuler(),
    noise: Addressed | Tensor = Addressed(0),
    gradient: Gradient | None = Auto(),
) -> Tensor:
    """dY = [u + gamma ((y1 - Y)/(1 - t) - u)] dt from the image at the grid's last time up to its first:
    structured noise.

    Arguments, source and errors as `rf_inversion`. Cost: one run.
    """
    if isinstance(noise, Tensor) and noise.shape != image.shape:
        raise ValueError(
            f"noise: got y1 of shape {tuple(noise.shape)}, expected the image's {tuple(image.shape)}"
        )
    up = _falling(denoiser, grid).flip(0)
    gain = strengths("gamma", gamma, len(up) - 1, image)
    plan = reaching(method.plan(denoiser.process, up), gain, 1.0)
    y1 = noise if isinstance(noise, Tensor) else noise.initial(image)
    return _run(Controlled(denoiser, 1.0), plan, image, Controlled.cond(cond, y1, gain), None, gradient)


def rf_regenerate(
    denoiser: Model,
    latent: Tensor,
    image: Tensor,
    *,
    cond: Any,
    eta: Strength = Schedule(0.9, stop=0.25),
    grid: Times = UniformT(28),
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
    down = _falling(denoiser, grid)
    gain = strengths("eta", eta, len(down) - 1, image)
    if method.stochastic and bool(gain.detach().any()):
        raise ValueError(
            f"{method}: got eta up to {float(gain.detach().max()):.4g} with a stochastic method, expected "
            "eta=0: SDE and controlled ODE have the same marginals only there; take FlowEuler()"
        )
    plan = reaching(method.plan(denoiser.process, down), gain, 0.0)
    model = Controlled(guided(denoiser, scale, null), 0.0)
    return _run(model, plan, latent, Controlled.cond(cond, image, gain), noise, gradient)


def reaching(plan: Plan, gain: Tensor, end: float) -> Plan:
    """`plan`, refused where it calls the model at `end` with a gain: (anchor - x)/(end - t) has no value there."""
    for k, op in enumerate(plan.instructions):
        if isinstance(op, Evaluate) and end in (op.t if isinstance(op.t, tuple) else (op.t,)):
            step = bisect_right(plan.starts, k) - 1
            if bool(gain.detach()[step].any()):
                raise ValueError(
                    f"{plan.name}: got a call at t={end:g} in step {step}, where the controller has no "
                    "value, expected none while its gain is not 0; take FlowEuler() or FlowMidpoint(), or "
                    "stop the window"
                )
    return plan


def _falling(denoiser: Model, grid: Times) -> Tensor:
    rectified("rf_inversion", denoiser)
    times = checked_times(grid, denoiser.process)
    if bool((times[1] > times[0]).any()):
        raise ValueError(
            f"grid: got times rising from {float(times[0].min()):.4g}, expected a grid falling from noise to "
            "data, as for sampling; the inversion goes along it backwards by itself"
        )
    return times


def _run(
    model: Model,
    plan: Plan,
    x: Tensor,
    cond: dict[str, Any],
    noise: Noise | Tensor | None,
    gradient: Gradient | None,
) -> Tensor:
    """`sample`, but a strategy asked for explicitly is no error in a pass that nothing differentiable enters."""
    inner = cond["inner"]
    entering = [
        x,
        cond["anchor"],
        cond["gain"].values,
        *model.parameters(),
        *([inner] if isinstance(inner, Tensor) else []),
    ]
    wanted = torch.is_grad_enabled() and any(value.requires_grad for value in entering)
    return sample(
        model, plan, x, cond=cond, noise=noise, gradient=gradient if wanted or gradient is None else Auto()
    )
