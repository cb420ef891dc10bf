"""Diffusion purification: a defence that diffuses an image to t* and samples it back, with its true gradient."""

from typing import Any

from torch import Tensor

from ...adjoint import Auto, Gradient, sample
from ...solvers import Model, Noise, Plan
from ...solvers.broadcast import per_sample
from ...solvers.checked import checked
from ...solvers.process import as_time
from ...solvers.wanted import Samples


@checked
def purify(
    denoiser: Model,
    plan: Plan,
    image: Samples,
    start: Samples,
    *,
    cond: Any = None,
    noise: Noise | Tensor | None = None,
    gradient: Gradient | None = Auto(),
) -> Tensor:
    """The sample of `plan` from x_{t*} = alpha(t*) image + sigma(t*) start, t* the plan's first time.

    With an adaptive attack in mind: the gradient at `image` is that of the whole chain at the memory of the
    strategy (`Reversible`: flat in the steps; `Checkpoint`: a state a step), where published evaluations cut
    it to a few steps or leave the Jacobian out (`straight_through`), and overestimate the defence.

    Args:
        image: (B, ...) in the range the denoiser was trained on.  start: like it, standard normal; fresh for
            every call in use, averaged over in an attack.
        gradient: the strategy that differentiates the run; None: it only samples.

    Raises:
        ValueError: a plan that rises, a start of another shape, and what `sample` raises.

    Source: Nie et al. 2022 (DiffPure), arXiv 2205.07460, section 3. Cost: plan.nfe network calls, and the
    strategy's.
    """
    plan.check_falls("purify")
    if image.shape != start.shape:
        raise ValueError(f"start: got shape {tuple(start.shape)}, expected the image's {tuple(image.shape)}")
    t, process = as_time(plan.times[0]), plan.process
    alpha, sigma = (per_sample(level(t).to(image), image) for level in (process.alpha, process.sigma))
    return sample(denoiser, plan, alpha * image + sigma * start, cond=cond, noise=noise, gradient=gradient)


@checked
def straight_through(image: Samples, purified: Samples) -> Tensor:
    """The value of `purified` with the gradient of `image`, as if purification were the identity: the
    Jacobian-free approximation (BPDA: Athalye et al. 2018, arXiv 1802.00420).
    """
    if purified.shape != image.shape:
        raise ValueError(
            f"purified: got shape {tuple(purified.shape)}, expected the image's {tuple(image.shape)}"
        )
    return image + (purified - image).detach()
