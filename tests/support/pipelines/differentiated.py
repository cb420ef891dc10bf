"""Value and gradients of a tiny pipeline, by `from_diffusers` and by its own loop."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipelines.case import PipelineCase, reference, start
from pipelines.image import CASES
from pullback.adjoint import Checkpoint, sample
from pullback.solvers.pipelines import DiffusersPipeline, from_diffusers

Outcome = tuple[Tensor, tuple[Tensor, ...]]  # the final latents, and gradients of latents and conditions
NAMED = {case.name: case for case in CASES}


def network(pipe: Any) -> Any:
    """What the pipeline asks at every turn."""
    return getattr(pipe, "unet", None) or pipe.transformer


def found_in(case: PipelineCase, pipe: Any, **more: Any) -> DiffusersPipeline:
    return from_diffusers(pipe, case.steps, **(case.call(pipe) | more))


def asked_of(case: PipelineCase, pipe: Any) -> dict[str, Tensor]:
    """The texts of the call, as leaves."""
    call = case.call(pipe)
    return {name: call[name].detach().clone().requires_grad_() for name in case.cond if "embeds" in name}


def loss_of(x: Tensor) -> Tensor:
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float32)
    return (weights.to(x) * x).sum()


def ours(
    case: PipelineCase,
    pipe: Any,
    found: DiffusersPipeline | None = None,
    *,
    gradient: Any = None,
    plan: Any = None,
    **how: Any,
) -> Outcome:
    """By `from_diffusers`, the state in float32 or wider."""
    found, cond = found or found_in(case, pipe), asked_of(case, pipe)
    x = start(pipe, case)
    x = x.to(torch.promote_types(x.dtype, torch.float32)).requires_grad_()
    end = sample(
        found.model, plan or found.plan, found.start(x), cond=cond, gradient=gradient or Checkpoint(), **how
    )
    return end.detach(), torch.autograd.grad(loss_of(end), [x, *cond.values()])


def theirs(case: PipelineCase, pipe: Any, **more: Any) -> Outcome:
    """By the pipeline's own loop, without its no_grad."""
    cond, x = asked_of(case, pipe), start(pipe, case).requires_grad_()
    end = reference(pipe, case, x, grad=True, **cond, **more)
    return end.detach(), torch.autograd.grad(loss_of(end), [x, *cond.values()])


def apart(found: Outcome, expected: Outcome) -> tuple[float, float]:
    """Relative distances of values and of gradients, the largest."""
    (a, b), pairs = (found[0], expected[0]), zip(found[1], expected[1], strict=True)
    return _relative(a, b), max(_relative(g, h) for g, h in pairs)


def _relative(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


def equal(found: Mapping[str, Any], expected: Mapping[str, Any]) -> bool:
    """Whether two objects' attributes are the same, bit by bit."""
    return found.keys() == expected.keys() and all(_same(found[name], expected[name]) for name in expected)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return a is b or bool(a == b)
