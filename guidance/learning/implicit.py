"""`implicit_diffusion`: parameters of a sampler optimised while it runs, in one loop."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...solvers.checked import checked
from ...solvers.kinds import described
from ...solvers.progress import progress_bar
from ...solvers.wanted import Count
from ..grad_mode import check_grad_mode
from ..latents.optimisation import MakeOptimiser, Stop, adam, check_callable_loss, made_optimiser
from ..latents.sample_optimiser import SampleOptimiser
from ..loss import Loss, check_loss


@dataclass(frozen=True)
class Moved:
    """What one step of a sampler brought.

    Attributes:
        losses: (B,) of the samples that it has now; None while there are none. gradient: of their mean, for each
            parameter; None while it is not whole.
        nfe, vjps: evaluations and VJPs of one sample each.
    """

    losses: Tensor | None
    gradient: list[Tensor] | None
    nfe: int
    vjps: int


class ImplicitSampler(ABC):
    """Samples that follow the parameters step by step, and the gradient of a loss of theirs.

    `start(parameters, loss)` gives the function of (k) that makes step k and says what it brought.
    """

    @abstractmethod
    def start(self, parameters: list[Tensor], loss: Loss) -> Callable[[int], Moved]:
        """Raises ValueError for what cannot be run this way."""


@dataclass(frozen=True, eq=False)
class ImplicitRun:
    """What the loop did; the parameters themselves are changed in place.

    Attributes:
        losses: (updates,) mean loss of the samples that each update was made from. averages: each parameter's mean over
            the updates k with weights that grow as k, detached: less of the noise that a constant rate leaves.
        updates: of the parameters. nfe, vjps: evaluations and VJPs of one sample each. stop: why it ended.
    """

    losses: Tensor
    averages: list[Tensor]
    updates: int
    nfe: int
    vjps: int
    stop: Stop


@checked
def implicit_diffusion(
    sampler: ImplicitSampler,
    loss: Loss,
    parameters: Sequence[Tensor],
    *,
    optimiser: MakeOptimiser = adam(0.01),
    steps: Count = 1000,
    progress: bool = True,
) -> ImplicitRun:
    """Minimise E loss(x) over x from the law of a sampler, by its parameters, in a single loop:

        samples <- one step of the sampler at theta,    theta <- theta - rate Gamma(samples, theta)

    with Gamma the gradient of the law that the sampler would reach if theta stood still. The samples trail theta by
    what the sampler needs to reach it, so that rates are to be small beside one over that.

    Args:
        sampler: `LangevinChain(energy, x, size)` or `ShiftQueue(denoiser, plan, starts)`.
        loss: samples (B, ...) to (B,).
        parameters: leaves that require grad, of the energy or the network; changed in place.
        steps: of the sampler; updates begin as soon as it has a whole gradient.

    Returns:
        An `ImplicitRun`. Ctrl-C ends early, with the parameters as they are then. `.grad` is left as it was.

    Raises:
        ValueError: parameters that are no leaves or do not require grad, that the energy or network does not reach, a
            loss of another shape; with `ShiftQueue` one that depends on the parameters by itself.
        FloatingPointError: a loss or gradient that is not finite; the step is named.

    Source: Marion et al. 2024, arXiv 2402.05468, algorithms 2 (one law, here `LangevinChain`) and 3 (a queue of laws,
    `ShiftQueue`).
    """
    check_grad_mode("implicit_diffusion")
    moved = list(parameters) if isinstance(parameters, Sequence) and not isinstance(parameters, str) else []
    if not moved or not all(isinstance(p, Tensor) and p.is_leaf and p.requires_grad for p in moved):
        raise ValueError(
            f"parameters: got {described(parameters)}, expected a list of leaves that require grad; pass "
            "list(network.parameters()) after requires_grad_()"
        )
    check_callable_loss(loss)
    descent = made_optimiser(optimiser, moved)
    if isinstance(descent, (torch.optim.LBFGS, SampleOptimiser)):
        raise ValueError(
            "optimiser: got one that searches along a line (L-BFGS), expected one that makes one step of one "
            "gradient: samples move between two losses; take adam() or sgd()"
        )
    advance = sampler.start(moved, loss)
    before = [parameter.grad for parameter in moved]
    losses, averages = list[float](), [p.detach().clone() for p in moved]
    nfe = vjps = 0
    stop = Stop.STEPS
    try:
        with progress_bar(range(steps), disable=not progress) as bar:
            for k in bar:
                found = advance(k)
                nfe, vjps = nfe + found.nfe, vjps + found.vjps
                if found.losses is None or found.gradient is None:
                    continue
                _check_finite(k, found.losses, found.gradient)
                for parameter, grad in zip(moved, found.gradient, strict=True):
                    parameter.grad = grad
                descent.step()
                losses.append(float(found.losses.mean()))
                for average, parameter in zip(averages, moved, strict=True):
                    average.lerp_(parameter.detach(), min(1.0, 2 / len(losses)))
                bar.set_postfix(loss=f"{losses[-1]:.4g}")
    except KeyboardInterrupt:
        stop = Stop.INTERRUPT
    finally:
        for parameter, grad in zip(moved, before, strict=True):
            parameter.grad = grad
    if not losses and stop is Stop.STEPS:
        warnings.warn(
            f"implicit_diffusion: {steps} steps made no update, since the sampler had no whole gradient yet (a queue "
            "of N steps has one after 2 N - 1); pass more steps",
            stacklevel=3,
        )
    return ImplicitRun(torch.tensor(losses, dtype=torch.float64), averages, len(losses), nfe, vjps, stop)


def losses_of(loss: Loss, x: Tensor) -> Tensor:
    """loss(x), checked to be (B,)."""
    value = loss(x)
    check_loss(value, len(x))
    return value


def check_gradients_reached(
    what: str, parameters: list[Tensor], losses: Tensor | None, reached: Sequence[Tensor | None]
) -> None:
    """Raise ValueError for a parameter that `what` does not depend on, or only the loss does.

    Args:
        losses: with their graph, as functions of the parameters too; None where none are in question.
        reached: the gradients of `what`, None where there is none.
    """
    direct = own_gradient(losses, parameters)
    for place, (own, grad) in enumerate(zip(direct, reached, strict=True)):
        if grad is None:
            how = "nothing depends on" if own is None else "the loss depends on by itself"
            raise ValueError(
                f"parameters[{place}] {tuple(parameters[place].shape)}: got one that {how} and {what} does not reach, "
                f"expected parameters of {what}; leave it out, or optimise it in a loop of its own"
            )


def own_gradient(losses: Tensor | None, parameters: list[Tensor]) -> Sequence[Tensor | None]:
    """Of a loss by itself, at the samples as they are: None for what it does not read."""
    if losses is None or not losses.requires_grad:
        return [None] * len(parameters)
    return torch.autograd.grad(losses.sum(), parameters, allow_unused=True, retain_graph=True)


def _check_finite(k: int, losses: Tensor, gradient: list[Tensor]) -> None:
    if not all(bool(each.isfinite().all()) for each in (losses, *gradient)):
        raise FloatingPointError(
            f"implicit_diffusion: loss or gradient not finite at step {k}; lower the rate or the step size"
        )
