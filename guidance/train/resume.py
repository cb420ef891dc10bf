"""What a checkpoint of a run holds, and how the run is taken back from it."""

import warnings
from pathlib import Path

from .checkpoints import Damaged
from .run import TrainingRun
from .settings import changes
from .undo import random_state, set_random_state


def save(run: TrainingRun) -> Path:
    """Write a checkpoint of everything that decides what comes next."""
    rewards = [run.reward, *run.heldout.values()]
    state = {
        "done": run.done,
        "drawn": run.drawn,
        "assessed": run.assessed,
        "settings": run.settings,
        "decline": run.decline.state(),
        "optimizer": run.trained.moments(),
        "queries": [reward.queries for reward in rewards],
        "seconds": [reward.seconds for reward in rewards],
    }
    own = {"objective": run.objective.state(), **random_state()}
    return run.checkpoints.save(run.done, run.trained.tensors(), state, own)


def restore_newest(run: TrainingRun) -> Path:
    """`restore` from the newest checkpoint that is whole; returns it.

    Raises:
        RuntimeError: there are checkpoints, all of them damaged. ValueError: see `restore`.

    Warns of each newer one that is damaged, naming the file.
    """
    folders = run.checkpoints.folders()
    for path in reversed(folders):
        try:
            restore(run, path)
        except Damaged as error:
            warnings.warn(
                f"resume: {error}; passed over for the next older checkpoint",
                stacklevel=3,  # at the call of RewardTrainer.train
            )
        else:
            return path
    raise RuntimeError(
        f"resume: got {len(folders)} checkpoints in {run.checkpoints.folder}, expected a whole one, but all are "
        "damaged; bring one back from a copy, or give another folder to start from 0"
    )


def restore(run: TrainingRun, path: Path) -> None:
    """Take back what `save` wrote.

    Raises:
        ValueError: it is damaged; it has other weights than these, or no average where one is asked for; the
            objective cannot take its statistics.

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
    # older versions noted config alone
    known = state.get("settings") or state["config"]
    changed = changes(known, run.settings, among=None if "settings" in state else known)
    try:
        run.objective.load(own["objective"])
    except Exception as error:
        raise ValueError(
            f"{path}: got a state that the objective cannot take ({type(error).__name__}: {error}), expected that "
            f"of the same objective; changed since: {', '.join(changed) or 'nothing that is known'}; give the "
            "objective of the run that is resumed, or another folder"
        ) from error
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
    # a run may go on with fewer held-out rewards, or more
    for reward, queries, seconds in zip(rewards, state["queries"], state["seconds"], strict=False):
        reward.queries, reward.seconds = queries, seconds
    set_random_state(own)
