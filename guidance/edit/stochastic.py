"""Editing by recovered noise (CycleDiffusion, edit-friendly DDPM inversion) and by fresh noise (SDEdit)."""

from typing import Any

import torch
from torch import Tensor

from ...adjoint import Auto, Checkpoint, Direct, Gradient, sample
from ...adjoint.arguments import check_serves, noise_for
from ...adjoint.replay.around_calls import AroundCalls
from ...adjoint.replay.bound_model import BoundModel
from ...adjoint.replay.cond import leaves
from ...adjoint.replay.parameters import parameters
from ...solvers import Addressed, Encoding, Model, Noise, Plan, recover_noise
from ...solvers.checked import checked
from ...solvers.opening import carried
from ...solvers.wanted import Samples
from .base import Edit, alpha_sigma, guided, seed_of, starting


@checked
def cycle_diffusion(
    denoiser: Model,
    plan: Plan,
    image: Samples,
    *,
    source: Any,
    target: Any,
    noise: Noise = Addressed(0),
    encoding: Encoding = Encoding.JOINT,
    scale: float | Tensor = 1.0,
    null: Any = None,
    gradient: Gradient | None = Auto(),
) -> Edit:
    """The start and noises from which a stochastic `plan` gives the image under `source`, run again under `target`.

    A path x_k is drawn upwards from the image; each step's noise is then what leads from x_k to x_{k+1}. Equal
    conditions give the image back to round-off. The gradient is that of all of it: image, source and weights have
    theirs by way of the recovered start and noises too.

    Args:
        plan: stochastic, ending at sigma > 0 (DDPM, DDIM(eta > 0), SDE-DPM-Solver, ...); how far up it starts
            is the edit's strength.
        image: (B, ...) at its last time. noise: what the path upwards is drawn with.
        encoding: JOINT, one path (CycleDiffusion), or INDEPENDENT (edit-friendly).
        scale, null: classifier-free guidance of the edit.
        gradient: the strategy that differentiates the run from the recovered noises; None: it only samples. The
            recovery is differentiated as `Checkpoint()` does, under `Direct()` by plain autograd.

    Returns:
        An Edit with start and noises. Raises ValueError: a plan without a draw of its own in every step,
            noise that does not fit.

    Cost: 2 runs, N + 1 float64 states; a backward pass to image, source or weights replays and differentiates the
    recovery's N calls too. Source: Wu and De la Torre 2022, arXiv 2210.05559, algorithm 1.
    """
    check_serves(gradient, plan)
    model = BoundModel(denoiser)
    declared = {f"source[{k}]": leaf for k, leaf in enumerate(leaves(source))} | parameters(model)
    # a bare callable may capture what nobody declared
    wanted = not model.is_module or any(each.requires_grad for each in (image, *declared.values()))
    with torch.set_grad_enabled(torch.is_grad_enabled() and gradient is not None and wanted):
        by = Direct() if isinstance(gradient, Direct) else Checkpoint()
        recovered = (
            AroundCalls(model, by.around_steps(model, declared)) if torch.is_grad_enabled() else denoiser
        )
        start, draws = recover_noise(recovered, plan, image, cond=source, noise=noise, encoding=encoding)
    out = sample(guided(denoiser, scale, null), plan, start, cond=target, noise=draws, gradient=gradient)
    return Edit(out, start, 2 * plan.nfe, seed_of(noise), draws)


@checked
def edit_friendly(
    denoiser: Model,
    plan: Plan,
    image: Samples,
    *,
    source: Any,
    target: Any,
    noise: Noise = Addressed(0),
    scale: float | Tensor = 1.0,
    null: Any = None,
    gradient: Gradient | None = Auto(),
) -> Edit:
    """`cycle_diffusion` with states drawn independently: larger noises, which hold on to the image more strongly.

    Source: Huberman-Spiegelglas et al. 2023, arXiv 2304.06140, algorithm 1.
    """
    return cycle_diffusion(
        denoiser,
        plan,
        image,
        source=source,
        target=target,
        noise=noise,
        encoding=Encoding.INDEPENDENT,
        scale=scale,
        null=null,
        gradient=gradient,
    )


@checked
def sdedit(
    denoiser: Model,
    plan: Plan,
    image: Samples,
    *,
    target: Any,
    noise: Addressed | Tensor = Addressed(0),
    scale: float | Tensor = 1.0,
    null: Any = None,
    gradient: Gradient | None = Auto(),
) -> Edit:
    """`plan` under `target` from x = alpha image + sigma n at its first time, which is the strength of the edit.

    Args:
        plan: falling; deterministic or not. image: (B, ...) clean data. noise: n is its starting noise, its
            slots serve the plan; or n itself (B, ...), where the plan draws nothing.
        gradient: the strategy that differentiates the run; None: it only samples.

    Raises:
        ValueError: n of another shape, or n alone for a plan that draws more.

    Cost: one run. Source: Meng et al. 2021, arXiv 2108.01073, algorithm 1.
    """
    image = carried(image)
    alpha, sigma = alpha_sigma(plan.process, plan.times[0], image)
    drawn = noise_for(plan, noise)
    if isinstance(drawn, Tensor):
        raise ValueError(
            f"noise: got n alone for {plan.name}, which draws {plan.slots} times more, expected a source of noise; "
            "pass noise=Addressed(0)"
        )
    start = alpha * image + sigma * starting("n", noise, image)
    out = sample(guided(denoiser, scale, null), plan, start, cond=target, noise=drawn, gradient=gradient)
    return Edit(out, start, plan.nfe, seed_of(noise))
