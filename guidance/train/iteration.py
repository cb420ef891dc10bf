"""One iteration of training: a rollout, the losses it gives and the optimiser steps they make."""

import warnings
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from ..objectives.objective import Batch, Experience, LossTerm
from ..rewards.asked import NOT_FINITE, refuse
from .prompts import shared_generator
from .run import TrainingRun
from .sharded import whole
from .tally import Tally
from .undo import Pause, undone_if_given_up


def iterate(run: TrainingRun, pause: Pause = Pause()) -> dict[str, Any]:
    """Move the run on by one iteration; returns its figures for the log.

    Raises:
        FloatingPointError: a reward, a loss or a gradient is not finite; ValueError: a reward of another shape than
            (B,), or without a gradient that is needed. On all processes together and before the weights are touched.
            Stopped: `pause` says so. Either way, where no weight has moved in this
            iteration the run is as it was before it.
    """
    tally = Tally()
    with undone_if_given_up(run):
        batches = run.batches()
        experiences = rollouts(run, batches, pause)
        tally.rewards += [found.reward for row in experiences for found in row if found is not None]
        for update, (row, found) in enumerate(zip(batches, experiences, strict=True)):
            for losses in optimiser_steps(run, row, found, update):
                # once weights have moved the iteration must be finished
                norm = step_gradient(run, losses if tally.norms else pause.between(losses), tally)
                if run.done == 0 and len(tally.norms) == 1:
                    _first_step(run, norm)
                else:
                    run.trained.step(norm, run.config.clip)
    run.done += 1
    run.drawn += run.arithmetic.drawn
    return tally.mean(run.world) | {
        "samples": run.drawn,
        "reward_queries": run.reward.queries * run.world.size,
        "reward_seconds": run.reward.seconds,
    }


def rollouts(
    run: TrainingRun, batches: list[list[Batch]], pause: Pause = Pause()
) -> list[list[Experience | None]]:
    """The experience of each piece of each update."""
    pieces = pause.between(chain.from_iterable(batches))
    found = [run.objective.rollout(run.policy, batch, run.reward, run.world) for batch in pieces]
    size = run.arithmetic.pieces
    return [found[start : start + size] for start in range(0, len(found), size)]


def optimiser_steps(
    run: TrainingRun, batches: list[Batch], experiences: list[Experience | None], update: int
) -> Iterator[tuple[Iterable[LossTerm], ...]]:
    """For each optimiser step of an update the losses of its pieces.

    The objective knows one piece at a time, so its pieces walk side by side: a step takes the losses of its
    turn from every one of them. Nothing is computed before it is asked for.
    """
    pieces = [
        run.objective.updates(
            run.policy,
            batch,
            experience,
            run.reward,
            run.world,
            # equal for all pieces, as for all processes: they must make the same choices
            shared_generator(run.config.seed, run.done, update),
        )
        for batch, experience in zip(batches, experiences, strict=True)
    ]
    return zip(*pieces, strict=True)


def step_gradient(run: TrainingRun, pieces: Iterable[Iterable[LossTerm]], tally: Tally) -> Tensor:
    """Fill in the gradient of one optimiser step, the mean over pieces and processes; returns its L2 norm.

    Each loss is back-propagated before the next one is computed, so that one graph lives at a time.

    Raises:
        FloatingPointError: a reward, a loss or a gradient is not finite.
    """
    run.trained.optimizer.zero_grad()
    trouble = None
    for loss in chain.from_iterable(pieces):
        run.trained.pull(loss.value / run.arithmetic.pieces)
        tally.add(loss)
        if trouble is None and not bool(torch.isfinite(loss.value.detach())):
            trouble = f"{NOT_FINITE}loss: {loss.value.item()}"
    norm = run.trained.average_gradients(run.world)
    size = whole(norm)
    _refuse_if_broken(run, run.reward.take_trouble() or trouble, size)
    tally.norms.append(float(size))
    return norm


def _refuse_if_broken(run: TrainingRun, trouble: str | None, norm: Tensor) -> None:
    """Raise on every process if anything of this step is not finite, or no reward, on one of them: before
    clipping would spread it over all weights.
    """
    broken = run.world.told(trouble)
    if broken is None and run.world.any(not bool(torch.isfinite(norm))):
        found = {name: whole(grad) for name, grad in run.trained.gradients().items()}
        bad = [
            f"{NOT_FINITE}gradient of {name}"
            for name, grad in found.items()
            if not bool(grad.isfinite().all())
        ]
        broken = (*bad, f"{NOT_FINITE}the gradient on another process")[0]
    if broken is not None:
        run.trained.optimizer.zero_grad()
        refuse(broken)


def _first_step(run: TrainingRun, norm: Tensor) -> None:
    """The first step of all; warns where it leaves the weights as they were."""
    weights = run.trained.weights.values()
    before = [value.detach().clone() for value in weights]
    run.trained.step(norm, run.config.clip)
    if all(torch.equal(whole(old), whole(new.detach())) for old, new in zip(before, weights, strict=True)):
        warnings.warn(
            "the weights did not change in the first step: got gradients of 0; is the adapter active, and "
            "does the reward depend on what is trained?",
            stacklevel=4,  # at the call of RewardTrainer.train
        )
