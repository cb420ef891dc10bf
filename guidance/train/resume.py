"""What a checkpoint of a trainer holds, and how it is taken back."""

import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from .adapter import whole
from .trained import put

if TYPE_CHECKING:
    from .trainer import RewardTrainer

FREE = (
    "out",
    "iterations",
    "keep",
    "checkpoint_every",
    "tensorboard",
    "progress",
)  # may differ without changing a number


def save(trainer: "RewardTrainer") -> Path:
    """Write a checkpoint of everything that decides what comes next."""
    tensors = {"weights": {name: whole(value.detach()) for name, value in trainer.weights.items()}}
    if trainer.average is not None:
        tensors["average"] = trainer.average.state()
    config = {name: str(value) for name, value in asdict(trainer.config).items()}
    state = {
        "done": trainer.done,
        "drawn": trainer.drawn,
        "config": config,
        "decline": trainer.decline.state(),
        "optimizer": tree_map_only(Tensor, whole, trainer.optimizer.state_dict()),
        "queries": [scored.queries for scored in trainer.scored()],
        "seconds": [scored.seconds for scored in trainer.scored()],
    }
    own = {
        "objective": trainer.objective.state(),
        "random": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    return trainer.checkpoints.save(trainer.done, tensors, state, own)


def restore(trainer: "RewardTrainer", path: Path) -> None:
    """Take back what `save` wrote."""
    tensors, state, own, exact = trainer.checkpoints.load(path)
    shapes = {name: tuple(value.shape) for name, value in trainer.weights.items()}
    found = {name: tuple(value.shape) for name, value in tensors["weights"].items()}
    if shapes != found or (trainer.average is not None and "average" not in tensors):
        odd = sorted(name for name in shapes.keys() | found.keys() if shapes.get(name) != found.get(name))
        raise ValueError(
            f"{path}: got weights that differ in {odd[:3] or 'their average'}, expected those of this "
            "denoiser and config; build both as for the run that is resumed"
        )
    changed = [
        name
        for name, value in asdict(trainer.config).items()
        if name not in FREE and str(value) != state["config"].get(name)
    ]
    if changed or not exact:
        warnings.warn(
            f"resume from {path}: changed since: {', '.join(changed) or 'more processes'}; the run is no "
            "longer exactly the one that was saved",
            stacklevel=3,
        )
    for name, value in trainer.weights.items():
        put(value, tensors["weights"][name])
    if trainer.average is not None:
        trainer.average.load(tensors["average"])
    _restore_optimizer(trainer, state["optimizer"])
    trainer.decline.load(state["decline"])
    trainer.done, trainer.drawn = state["done"], state["drawn"]
    for scored, queries, seconds in zip(trainer.scored(), state["queries"], state["seconds"], strict=False):
        scored.queries, scored.seconds = queries, seconds
    trainer.objective.load(own["objective"])
    torch.set_rng_state(own["random"])
    if own["cuda"]:
        torch.cuda.set_rng_state_all(own["cuda"])


def _restore_optimizer(trainer: "RewardTrainer", saved: dict[str, Any]) -> None:
    rates = [group["lr"] for group in trainer.optimizer.param_groups]
    trainer.optimizer.load_state_dict(saved)
    for group, rate in zip(trainer.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate  # a rate changed in the configuration is meant
    if trainer.sharded:
        for value, entry in trainer.optimizer.state.items():
            for name, kept in entry.items():
                if kept.shape == value.shape:
                    entry[name] = torch.zeros_like(value)
                    put(entry[name], kept)
