"""Detection by regeneration: how far an image is from what the model makes of it."""

from typing import Any

import torch
from torch import Tensor

from ...adjoint import Gradient, sample
from ...adjoint.arguments import check_serves
from ...solvers import DDIM, Model, Plan
from ...solvers.checked import checked
from ...solvers.wanted import Samples


@checked
def regeneration_distance(
    denoiser: Model, plan: Plan, images: Samples, *, cond: Any = None, gradient: Gradient | None = None
) -> Tensor:
    """|x - x'| / sqrt(d), (B,): x' is the sample of `plan` from the noise to which DDIM on the plan's times, taken
    backwards, leads the image.

    The two ways differ by the solver's error and by the network's: small on images like those the model was trained on
    or has made itself, larger on others, attacked ones among them. Compare with distances of images that are known to
    be clean: with more steps all fall alike.

    Args:
        plan: deterministic, from noise to data; 10 to 50 steps.  images: (B, ...), states at its last time.
        gradient: the strategy that differentiates the run, for an attacker who knows the detector; None: it only
            samples.

    Raises:
        ValueError: a plan that draws noise, or rises.

    Source: Wang et al. 2023 (DIRE), arXiv 2303.09295. Cost: plan.steps + plan.nfe network calls.
    """
    plan.check_falls("regeneration_distance")
    if plan.stochastic:
        raise ValueError(
            f"plan: got {plan.name}, which draws noise, expected a deterministic one, whose noise does not "
            "hide the distance; take DDIM().plan(...)"
        )
    times = torch.tensor(plan.times, dtype=torch.float64)
    upwards = DDIM().along(plan.process, times.flip(0))
    check_serves(gradient, upwards, plan)
    latent = sample(denoiser, upwards, images, cond=cond, gradient=gradient)
    again = sample(denoiser, plan, latent, cond=cond, gradient=gradient)
    return (images - again).flatten(1).square().mean(1).sqrt()
