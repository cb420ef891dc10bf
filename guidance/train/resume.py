"""What a checkpoint of a run holds, and how the run is taken back from it."""

import warnings
from dataclasses import asdict
from pathlib import Path

from .run import TrainingRun
from .undo import random_state, set_random_state

# settings that may change between a run and its continuation without changing a number
FREE = ("out", "iterations", "keep", "checkpoint_every", "tensorboard", "progress")


def save(run: TrainingRun) -> Path:
    """Write a checkpoint of everything that decides what comes next."""
    rewards = [run.reward, *run.heldout.values()]
    state = {
        "done": run.done,
        "drawn": run.drawn,
        "assessed": run.assessed,
        "config": {name: str(value) for name, value in asdict(run.config).items()},
        "decline": run.decline.state(),
        "optimizer": run.trained.moments(),
        "queries": [reward.queries for reward in rewards],
        "seconds": [reward.seconds for reward in rewards],
    }
    own = {"objective": run.objective.state(), **random_state()}
    return run.checkpoints.save(run.done, run.trained.tensors(), state, own)


def restore(run: TrainingRun, path: Path) -> None:
    """Take back what `save` wrote.

    Raises:
        ValueError: it has other weights than these, or no average where one is asked for.

    Warns where settings changed since, or processes were added.
    """
    tensors, state, own, exact = run.checkpoints.load(path)
    shapes = {name: tuple(value.shape) for name, value in run.trained.weights.items()}
    found = {name: tuple(value.shape) for name, value in tensors["weights"].items()}
    if shapes != found or (run.trained.average is not None and "average" not in tensors):
        odd = sorted(name for name in shapes.keys() | found.keys() if shapes.get(name) != found.get(name))
        raise ValueError(
            f"{path}: got weights that differ in {odd[:3] or 'their average'}, expected those of this "
            "denoiser and config; build both as for the run that is resumed"
        )
    changed = [
        name
        for name, value in asdict(run.config).items()
        if name not in FREE and str(value) != state["config"].get(name)
    ]
    if changed or not exact:
        warnings.warn(
            f"resume from {path}: changed since: {', '.join(changed) or 'more processes'}; the run is no "
            "longer exactly the one that was saved",
            stacklevel=3,  # at whoever called the trainer's restore
        )
    run.trained.load(tensors, state["optimizer"])
    run.decline.load(state["decline"])
    run.done, run.drawn = state["done"], state["drawn"]
    run.assessed = state.get("assessed", run.done)
    rewards = [run.reward, *run.heldout.values()]
    for reward, queries, seconds in zip(rewards, state["queries"], state["seconds"], strict=False):
        reward.queries, reward.seconds = (
            queries,
            seconds,
        )  # a run may go on with fewer held-out rewards, or more
    run.objective.load(own["objective"])
    set_random_state(own)
