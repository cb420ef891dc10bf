"""What a run was set up with, as names and short texts: what a resumed run is compared by."""

import functools
import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...solvers import Model, Plan
from ...solvers.pipelines.network import PipelineTurn
from ..objectives.objective import Objective
from .config import TrainConfig
from .prompts import Prompts

# settings that may change between a run and its continuation without changing a number
FREE = ("out", "iterations", "keep", "checkpoint_every", "tensorboard", "progress")
LONGEST = 60  # of a text; the rest of a longer one is told by its digest
PLAIN = (bool, int, float, complex, str, torch.dtype, torch.device, Path, type(None))


def settings(
    config: TrainConfig,
    objective: Objective,
    model: Model,
    plan: Plan,
    prompts: Mapping[str, Prompts],
    rewards: Mapping[str, Any],
) -> dict[str, str]:
    """Name by name, before anything is trained: config's fields under their own names, the others under theirs and
    their owner's, such as "objective.kl". Tensors, grids and instructions are told by a digest, networks by the
    shapes of their parameters, functions by their names.
    """
    # what an objective keeps in fields of its own changes while it trains: that is state, no setting
    kept = {f"objective.{name}" for name, value in objective.state().items() if isinstance(value, PLAIN)}
    found = {field.name: _text(getattr(config, field.name)) for field in fields(config)}
    found |= {name: text for name, text in _entries("objective", objective) if name not in kept}
    found |= dict(_entries("plan", plan))
    found |= dict(_entries("model", model))
    for name, items in prompts.items():
        found[f"{name}.items"] = str(len(items.items))
        for part in ("shape", "repeats", "shuffle", "collate"):
            found |= dict(_entries(f"{name}.{part}", getattr(items, part)))
    for name, reward in rewards.items():
        found |= dict(_entries(name, reward))
    return found


def changes(
    before: Mapping[str, str], now: Mapping[str, str], among: Collection[str] | None = None
) -> list[str]:
    """ "name (before -> now)" of each that differs, in order of `now`; what only one side has is left out where
    something above it differs: the fields of another objective.

    Args:
        among: the names that are compared; default all.
    """
    differing = [
        name
        for name in (*now, *(name for name in before if name not in now))
        if name not in FREE and (among is None or name in among) and before.get(name) != now.get(name)
    ]

    def follows(name: str) -> bool:
        above = (name[:k] for k, letter in enumerate(name) if letter == ".")
        return (name not in before or name not in now) and any(part in differing for part in above)

    return [
        f"{name} ({before.get(name, 'nothing')} -> {now.get(name, 'nothing')})"
        for name in differing
        if not follows(name)
    ]


def _entries(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """`value` as a text under `name`, and what it consists of under names below."""
    if isinstance(value, Model):
        parts = {key: part for key, part in vars(value).items() if not _is_memory(part)}
    elif isinstance(value, Plan):
        parts = {
            "steps": value.steps,
            "times": _digest(repr(value.times)),
            "instructions": _digest(repr(value.instructions)),
            "process": value.process,
        }
    elif isinstance(value, PipelineTurn):
        # what it calls is diffusers' code: told by the pipeline's class and arguments
        loops = value.loops
        parts = {"pipeline": type(loops.pipe), **loops.arguments, "networks": tuple(value.networks())}
    elif isinstance(value, torch.optim.Optimizer):
        parts = value.defaults
    elif isinstance(value, functools.partial):
        parts = {"of": value.func} | dict(enumerate(value.args)) | value.keywords
    elif is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: getattr(value, field.name) for field in fields(value)}
    elif isinstance(value, tuple | list) and not _is_plain(value):
        parts = dict(enumerate(value))
    elif _is_leaf(value):
        parts = {}
    else:
        parts = {key: part for key, part in getattr(value, "__dict__", {}).items() if not _is_memory(part)}
    yield name, _text(value)
    for key, part in parts.items():
        yield from _entries(f"{name}.{key}", part)


def _is_plain(value: Any) -> bool:
    """A number, a name, or a row of them."""
    return (
        isinstance(value, PLAIN)
        or isinstance(value, tuple | list)
        and all(isinstance(v, PLAIN) for v in value)
    )


def _is_function(value: Any) -> bool:
    return isinstance(value, type) or callable(value) and hasattr(value, "__qualname__")


def _is_leaf(value: Any) -> bool:
    return _is_plain(value) or _is_function(value) or isinstance(value, Enum | Tensor | nn.Module)


def _is_memory(value: Any) -> bool:
    """What an object of no declared fields remembers, rather than what it was made of."""
    return isinstance(value, dict | set | list)


def _text(value: Any) -> str:
    """One short text."""
    if isinstance(value, Enum):
        return f"{type(value).__name__}.{value.name}"
    if _is_plain(value):
        text = str(value)
        return text if len(text) <= LONGEST else f"{text[:LONGEST]}... {_digest(text)}"
    if isinstance(value, Tensor):
        shape = f"tensor {tuple(value.shape)}"
        if value.requires_grad:  # it is trained
            return shape
        whole = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        return f"{shape} {_digest(whole.numpy().tobytes())}"
    if isinstance(value, nn.Module):
        shapes = [(name, tuple(part.shape)) for name, part in value.named_parameters()]
        return (
            f"{type(value).__name__} of {sum(p.numel() for p in value.parameters())} {_digest(repr(shapes))}"
        )
    if isinstance(value, Plan):
        return value.name
    if _is_function(value):
        return f"{value.__module__}.{value.__qualname__}"
    return type(value).__name__


def _digest(value: str | bytes) -> str:
    return hashlib.sha256(value.encode() if isinstance(value, str) else value).hexdigest()[:12]
