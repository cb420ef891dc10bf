"""Which strategy a run takes, and what speaks against the one that was asked for."""

import torch
from torch import Tensor

from .choosing.auto import Auto
from .given import Given
from .replay.bound_model import BoundModel
from .strategies.checkpoint import Checkpoint
from .strategies.direct import Direct
from .strategies.gradient import Gradient
from .strategies.truncated import Truncated
from .transforms import check_not_traced, transform


def chosen(gradient: Gradient | None, given: Given) -> Gradient | None:
    """The strategy of a run, None where it only samples.

    Raises:
        ValueError: inside torch.func.linearize; a strategy that torch.func would not see through; one asked for where
            nothing requires grad, or where it cuts off all that does.
    """
    check_not_traced()
    if gradient is None:
        return None
    around = transform()
    if around and not isinstance(gradient, Direct):
        raise ValueError(
            f"gradient={gradient}: got {around}, expected plain reverse mode; use gradient=Direct(), or None "
            "to sample only"
        )
    recording = torch.is_grad_enabled()
    wanted = recording and any(tensor.requires_grad for tensor in given.tensors())
    # a bare callable may capture tensors that nobody declared, a transform hides what it differentiates: the
    # run tells
    model = given.start.model
    declared = isinstance(model, BoundModel) and model.is_module
    opaque = bool(around) or recording and not declared
    if not (wanted or opaque or gradient.samples):
        if asked_for(gradient):
            raise nothing_requires_grad(gradient)
        return None
    if wanted and not opaque and isinstance(gradient, Truncated):
        _check_truncated(gradient, given)
    if not len(given.start.registers["x"]):
        return Direct()  # of no samples nothing need be kept, and each strategy's gradient is zero
    return Checkpoint() if gradient == Auto() else gradient


def check_reached(gradient: Gradient | None, out: Tensor) -> None:
    """Raise ValueError where a gradient was asked for and the run reached nothing that has one."""
    if gradient is not None and asked_for(gradient) and not out.requires_grad:
        raise nothing_requires_grad(gradient)


def asked_for(gradient: Gradient) -> bool:
    """Whether `gradient` says that somebody expects one."""
    return not gradient.samples and not isinstance(gradient, Auto) and not transform()


def nothing_requires_grad(gradient: Gradient) -> ValueError:
    """What to raise where a gradient was asked for and there is none."""
    return ValueError(
        f"gradient={gradient}: got inputs and parameters none of which requires grad, expected at least one; "
        "call requires_grad_() on what you optimise, or pass gradient=None to sample only"
    )


def _check_truncated(gradient: Truncated, given: Given) -> None:
    steps = given.start.plan.steps
    if gradient.last < steps and not any(tensor.requires_grad for tensor in given.at_every_step()):
        raise ValueError(
            f"{gradient}: got only x that requires grad, expected something that enters the last "
            f"{gradient.last} of {steps} steps; truncation cuts x off: use Checkpoint() for it"
        )
