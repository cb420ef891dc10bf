"""What a tracer knows of a run's tensors, and tensors in their place that the checks of a run can look at.

torch.compile traces with tensors that have no numbers. What is known of them, and cannot change without tracing anew,
is shape, dtype, device and whether they require grad: a form. Its stand-in takes the memory of one number.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ..solvers import Addressed, GivenNoise
from ..solvers.per_step import PerStep
from .transforms import transform

Form = tuple[tuple[int, ...], torch.dtype, torch.device, bool]


def form_of(x: Tensor) -> Form:
    """Shape, dtype, device, requires_grad."""
    # a tracer that has seen two batch sizes makes a symbol of the third; a range has numbers for ends
    return tuple([range(size).stop for size in x.shape]), x.dtype, x.device, x.requires_grad


def stand_in(form: Form) -> Tensor:
    """A tensor of that form; inside torch.func, which hides what it differentiates, none requires grad."""
    shape, dtype, device, requires_grad = form
    one = torch.empty((), dtype=dtype, device=device).expand(shape)
    return one if transform() else one.detach().requires_grad_(requires_grad)


def forms_in(cond: Any) -> list[tuple[bool, Form]]:
    """Of each tensor in `cond` whether it is PerStep, and its form."""
    found = [leaf for leaf in tree_leaves(cond) if isinstance(leaf, Tensor | PerStep)]
    return [
        (True, form_of(leaf.values)) if isinstance(leaf, PerStep) else (False, form_of(leaf))
        for leaf in found
    ]


def conditioning(forms: list[tuple[bool, Form]]) -> list[Any]:
    """What stands in for the leaves of cond."""
    return [PerStep(stand_in(form)) if stepped else stand_in(form) for stepped, form in forms]


def form_of_noise(noise: Any) -> Any:
    """The form of draws, how many samples addresses are for (0: any), or the class of another source."""
    if isinstance(noise, GivenNoise):
        return form_of(noise.values)
    if isinstance(noise, Addressed):
        return 0 if noise.samples is None else len(noise.samples)
    return form_of(noise) if isinstance(noise, Tensor) else type(noise)


def noise_of(form: Any) -> Any:
    """What stands in for noise. Raises ValueError for a source whose draws cannot be traced."""
    if isinstance(form, tuple):
        return stand_in(form)
    if isinstance(form, int):
        return Addressed(0, range(form) if form else None)
    if form is type(None):
        return None
    raise ValueError(
        f"noise: got {form.__name__} inside torch.compile, expected Addressed(seed) or a tensor of draws; draw the "
        "plan's slots beforehand"
    )
