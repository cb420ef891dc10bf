"""One iteration of training: a rollout, the losses it gives and the optimiser steps they make."""

import warnings
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from ..objectives.objective import Batch, Experience, LossTerm
from .prompts import shared_generator
from .run import TrainingRun
from .sharded import whole
from .tally import Tally


def iterate(run: TrainingRun) -> dict[str, Any]:
    """Move the run on by one iteration; returns its figures for the log.

    Raises:
        FloatingPointError: a reward, a loss or a gradient is not finite, on all processes together and before
            the weights are touched.
    """
    tally = Tally()
    batches = run.batches()
    experiences = [rollouts(run, row) for row in batches]
    tally.rewards += [found.reward for row in experiences for found in row if found is not None]
    for update, (row, found) in enumerate(zip(batches, experiences, strict=True)):
        for losses in optimiser_steps(run, row, found, update):
            norm = step_gradient(run, losses, tally)
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


def rollouts(run: TrainingRun, batches: list[Batch]) -> list[Experience | None]:
    """The experience of each piece of an update."""
    return [run.objective.rollout(run.policy, batch, run.reward, run.world) for batch in batches]


def optimiser_steps(
    run: TrainingRun, batches: list[Batch], experiences: list[Experience | None], update: int
) -> Iterator[Iterable[LossTerm]]:
    """For each optimiser step of an update its losses, those of all pieces one after the other.

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
    return (chain.from_iterable(step) for step in zip(*pieces, strict=True))


def step_gradient(run: TrainingRun, losses: Iterable[LossTerm], tally: Tally) -> Tensor:
    """Fill in the gradient of one optimiser step, the mean over pieces and processes; returns its L2 norm.

    Each loss is back-propagated before the next one is computed, so that one graph lives at a time.

    Raises:
        FloatingPointError: a reward, a loss or a gradient is not finite.
    """
    run.trained.optimizer.zero_grad()
    trouble = None
    for loss in losses:
        run.trained.pull(loss.value / run.arithmetic.pieces)
        tally.add(loss)
        if trouble is None and not bool(torch.isfinite(loss.value.detach())):
            trouble = f"loss: {loss.value.item()}"
    norm = run.trained.average_gradients(run.world)
    size = whole(norm)
    _refuse_if_broken(run, run.reward.take_trouble() or trouble, size)
    tally.norms.append(float(size))
    return norm


def _refuse_if_broken(run: TrainingRun, trouble: str | None, norm: Tensor) -> None:
    """Raise FloatingPointError on every process if anything of this step is not finite on one of them: before
    clipping would spread it over all weights.
    """
    if run.world.any(trouble is not None or not bool(torch.isfinite(norm))):
        found = {name: whole(grad) for name, grad in run.trained.gradients().items()}
        bad = [f"gradient of {name}" for name, grad in found.items() if not bool(grad.isfinite().all())]
        run.trained.optimizer.zero_grad()
        raise FloatingPointError(f"not finite: {trouble or (*bad, 'a value on another process')[0]}")


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
