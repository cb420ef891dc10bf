"""Learn how strongly RF-Inversion holds on to the image at each step, by the gradient through the whole edit."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...adjoint import Auto, Gradient, Input
from ...solvers import Addressed, FlowEuler, Method, Model, UniformT
from ...solvers.grid import Times
from ...solvers.notebook import Shown
from ..loss import Loss, check_loss
from .base import Edit
from .rectified_inversion import rf_inversion, rf_invert, rf_regenerate
from .schedule import Schedule, Strength, strengths


@dataclass(frozen=True, eq=False, repr=False)
class Learned(Shown):
    """The best schedules seen, sample by sample unless shared, and what led there.

    Attributes:
        edit: the edit under them. eta, gamma: (N, B), or (N,) if shared. loss: (B,) at the best.
        losses: (steps, B). nfe, vjps: calls forward (replays included) and backward.
    """

    edit: Edit
    eta: Tensor
    gamma: Tensor
    loss: Tensor
    losses: Tensor
    nfe: int
    vjps: int


def learn_schedule(
    denoiser: Model,
    image: Tensor,
    loss: Loss,
    *,
    target: Any,
    source: Any = None,
    gamma: Strength = 0.5,
    eta: Strength = Schedule(0.9, stop=0.25),
    learn_gamma: bool = False,
    shared: bool = False,
    steps: int = 20,
    lr: float = 0.05,
    grid: Times = UniformT(28),
    method: Method = FlowEuler(),
    noise: Addressed | Tensor = Addressed(0),
    scale: float | Tensor = 1.0,
    null: Any = None,
    gradient: Gradient = Auto(),
) -> Learned:
    """Minimise loss(edit) over eta(t), and gamma(t) with `learn_gamma`, by Adam, projected on [0, 1] after every step.

    Args:
        loss: the edited batch (B, ...) to (B,): what an edit should be, close to the image here and different
            there.
        eta, gamma: where to start. shared: one schedule for the whole batch (its samples then share the sum
            of their losses).
        lr: Adam's, in units of eta.
        gradient: the strategy that differentiates the run.
        Others as `rf_inversion`.

    Raises:
        ValueError: as `rf_inversion`; a loss of another shape than (B,). FloatingPointError: a loss that is
            not finite.

    Cost: per step N calls, N replays and N VJPs for eta, twice that with gamma; memory of `gradient`, N
    states and one activation for `Checkpoint`. New here; the schedules it starts from: arXiv 2410.10792.
    """
    if steps < 1:
        raise ValueError(f"learn_schedule: got steps={steps}, expected at least 1")
    image, plan = image.detach(), method.plan(denoiser.process, grid)
    gradient.check(plan, [Input.COND])
    etas = _start("eta", eta, plan.steps, image, shared).requires_grad_()
    gammas = _start("gamma", gamma, plan.steps, image, shared).requires_grad_(learn_gamma)
    variables = [etas, gammas]
    learned = variables if learn_gamma else [etas]
    up: dict[str, Any] = {"cond": source, "noise": noise, "grid": grid, "method": method}
    down: dict[str, Any] = {"scale": scale, "null": null, "grid": grid, "method": method}
    latent = rf_invert(denoiser, image, gamma=gammas, gradient=None, **up)
    adam, rows = torch.optim.Adam(learned, lr=lr), []
    best = torch.full_like(image.flatten(1)[:, 0], float("inf"))
    kept = [variable.detach().clone() for variable in variables]
    for step in range(steps + 1):
        if learn_gamma:
            latent = rf_invert(denoiser, image, gamma=gammas, gradient=gradient, **up)
        value = loss(rf_regenerate(denoiser, latent, image, cond=target, eta=etas, gradient=gradient, **down))
        check_loss(value, len(image))
        if not bool(value.detach().isfinite().all()):
            raise FloatingPointError(f"loss: not finite at step {step}: got {value.detach().tolist()}")
        rows.append(value.detach())
        better = (rows[-1].sum() < best.sum()).expand_as(best) if shared else rows[-1] < best
        best = torch.where(better, rows[-1], best)
        take = better[0] if shared else better
        kept = [torch.where(take, now.detach(), old) for now, old in zip(variables, kept, strict=True)]
        if step < steps:
            adam.zero_grad()
            value.sum().backward(inputs=learned)
            adam.step()
            with torch.no_grad():
                for variable in learned:
                    variable.clamp_(0, 1)
    edit = rf_inversion(
        denoiser, image, target=target, source=source, eta=kept[0], gamma=kept[1], noise=noise, gradient=None, **down
    )  # fmt: skip
    passes, (calls, vjps) = len(learned), gradient.cost(plan)
    nfe = passes * (calls * steps + plan.nfe) + plan.nfe + edit.nfe
    return Learned(edit, kept[0], kept[1], best, torch.stack(rows), nfe, passes * vjps * steps)


def _start(name: str, value: Strength, steps: int, image: Tensor, shared: bool) -> Tensor:
    """Where a schedule begins: (N,) if shared, else a column for each sample (N, B)."""
    start = strengths(name, value, steps, image).detach().to(image)
    if shared and start.ndim == 2:
        raise ValueError(
            f"{name}: got one schedule for each of {len(image)} samples and shared=True, expected (N,); "
            "average it"
        )
    if not shared and start.ndim == 1:
        start = start[:, None].expand(-1, len(image))
    return start.clone()
