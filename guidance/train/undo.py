"""Back to where the run stood, as long as no weight has moved: for an iteration or evaluation that is given up."""

import contextlib
import copy
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch

from .run import TrainingRun

Piece = TypeVar("Piece")


class Stopped(Exception):
    """The run was asked to stop, between two pieces of work."""


class Pause:
    """Where work may be given up: between two pieces. This one never stops anything."""

    def asked(self) -> bool:
        """Whether to stop; the same on all processes, which ask together."""
        return False

    def check(self) -> None:
        """Raise Stopped if asked to."""
        if self.asked():
            raise Stopped

    def between(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        """The pieces one by one. Raises Stopped before any but the first."""
        for k, piece in enumerate(pieces):
            if k:
                self.check()
            yield piece


def random_state() -> dict[str, Any]:
    """This process's global generators."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"random": torch.get_rng_state(), "cuda": cuda}


def set_random_state(state: dict[str, Any]) -> None:
    """Take back what `random_state` gave."""
    torch.set_rng_state(state["random"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])


@contextlib.contextmanager
def undone_if_given_up(run: TrainingRun) -> Iterator[None]:
    """Where Stopped or FloatingPointError leaves the block before any weight has moved, the objective's statistics,
    the rewards' counts and the random numbers are again what they were.
    """
    rewards = [run.reward, *run.heldout.values()]
    statistics, moved, random = copy.deepcopy(run.objective.state()), run.trained.steps, random_state()
    counts = [(reward.queries, reward.seconds) for reward in rewards]
    try:
        yield
    except (Stopped, FloatingPointError):
        if run.trained.steps == moved:
            run.objective.load(statistics)
            set_random_state(random)
            for reward, (queries, seconds) in zip(rewards, counts, strict=True):
                reward.queries, reward.seconds = queries, seconds
        raise
