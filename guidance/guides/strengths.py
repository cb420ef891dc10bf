"""Strengths: how strongly a guide pulls, one number for all, one for each sample, one for each step, or both."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

from torch import Tensor

from ...solvers.checked import CheckedFields
from ...solvers.per_step import PerStep
from .context import Context
from .guide import Guide

Strengths = (
    float | Tensor | PerStep
)  # one number, one for each sample (B,), or PerStep of either, (N,) or (N, B)


def strength_at(ctx: Context, value: Strengths) -> float | Tensor:
    """`value` at this step, shaped to broadcast."""
    if isinstance(value, PerStep):
        value = value.values[ctx.step]
    return ctx.spread(value) if isinstance(value, Tensor) else value


def repeated_strengths(guide: Guide, batch: int, count: int) -> Guide:
    """`guide`, of `batch` samples, for `count` copies of each, one after the other: strengths (B,) and PerStep (N, B)
    repeated, (B, K) and (N, B, K) laid out as the copies are; one for all stays as it is.

    Raises:
        ValueError: a strength that has not one value, and is not of these shapes: (K, B) would be scrambled.
    """

    def repeated(name: str, value: Strengths) -> Strengths:
        steps = isinstance(value, PerStep)
        values = value.values if isinstance(value, PerStep) else value
        if not isinstance(values, Tensor):
            return value
        axis = 1 if steps else 0
        shape = tuple(values.shape[axis:])
        many = values.shape[axis:].numel()
        if many == 1:
            return value
        of_each = many == batch * count and (shape[:2] == (batch, count) or shape[:1] == (many,))
        if not of_each and not (many == batch and shape[:1] == (batch,)):
            n = "N, " if steps else ""
            raise ValueError(
                f"{name}: got {'PerStep with values' if steps else 'shape'} {tuple(values.shape)}, expected one number"
                f"{' a step' if steps else ''}, ({n}{batch}{'' if steps else ','}) for the samples, or "
                f"({n}{batch}, {count}) for the particles of each; its rows are those of x (B, K, ...)"
            )
        values = values.flatten(axis)
        values = values if of_each else values.repeat_interleave(count, axis)
        return PerStep(values) if steps else values

    return _with_strengths(guide, repeated)


def check_strengths(guide: Any, steps: int, batch: int) -> None:
    """Raise ValueError where a strength of `guide`, of its parts or of its policies has not one value, or one for each
    of `batch` samples; or is PerStep and has not as many for each of the plan's `steps`.
    """

    def check(name: str, value: Strengths) -> Strengths:
        if isinstance(value, PerStep):
            shape = tuple(value.values.shape)
            if shape[:1] != (steps,):
                raise ValueError(
                    f"{name}: got PerStep with {len(value.values)} values, expected {steps}, one for each step of the "
                    "plan; its values are (N,) or (N, B)"
                )
            if value.values[0].numel() not in (1, batch):
                raise ValueError(
                    f"{name}: got PerStep with values {shape}, expected ({steps},) or ({steps}, {batch}): one for each "
                    f"step, or for each step and each of the {batch} rows of x"
                )
        elif isinstance(value, Tensor) and value.numel() not in (1, batch):
            raise ValueError(
                f"{name}: got shape {tuple(value.shape)}, expected a number, () or ({batch},), one for each of the "
                f"{batch} rows of x; write PerStep(values) for one value a step"
            )
        return value

    _with_strengths(guide, check)


def _with_strengths(part: Any, change: Callable[[str, Strengths], Strengths]) -> Any:
    """`part`, a guide or a policy, with change("Raw.scale", value) in place of each strength in it."""
    if not isinstance(part, CheckedFields) or not is_dataclass(part):
        return part
    changed = {}
    for field in fields(part):
        value = getattr(part, field.name)
        if isinstance(value, PerStep) or (field.type == Strengths and isinstance(value, Tensor)):
            after: Any = change(f"{type(part).__name__}.{field.name}", value)
        elif isinstance(value, tuple):
            each = tuple(_with_strengths(inner, change) for inner in value)
            after = each if any(a is not b for a, b in zip(each, value, strict=True)) else value
        else:
            after = _with_strengths(value, change)
        if after is not value:
            changed[field.name] = after
    return replace(part, **changed) if changed else part
