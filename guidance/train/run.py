"""What a training run consists of, and how far it has come."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..objectives.objective import Batch, Objective, Policy
from ..rewards.asked import MeteredReward
from .arithmetic import Arithmetic
from .checkpoints import Checkpoints
from .config import TrainConfig
from .decline import Decline
from .processes import Processes
from .prompts import Prompts
from .trained import Trained


@dataclass(eq=False)
class TrainingRun:
    """The parts of a training run. `RewardTrainer` puts them together; `iterate` moves the run on by one
    iteration, `evaluate` and `preflight` look at it, `save` and `restore` write it down and take it back.

    Args:
        config: the numbers.
        world: the processes at work.
        arithmetic: how samples are dealt out to them.
        policy: what is sampled: the denoiser, its plan, and the reference of the KL.
        trained: the policy's weights that require grad, their optimiser and their average.
        objective: which losses are descended; carries statistics of its own.
        prompts: what is sampled for.
        reward: what is trained for.
        heldout: rewards that are only watched, by name.
        decline: how long each of those has been falling.
        settings: what it was set up with, see `settings`.
        done: iterations so far: with the seed, the shared choices of the next one.
        drawn: samples so far, over all processes: with the seed, the next prompts and noise. No multiple of
            `done` once a run was resumed with other numbers of samples.
        assessed: `done` at the last evaluation that the log and `decline` know of; -1 before the first.
    """

    config: TrainConfig
    world: Processes
    arithmetic: Arithmetic
    policy: Policy
    trained: Trained
    objective: Objective
    prompts: Prompts
    reward: MeteredReward
    heldout: dict[str, MeteredReward]
    decline: Decline
    settings: dict[str, str]
    done: int = 0
    drawn: int = 0
    assessed: int = -1

    @property
    def checkpoints(self) -> Checkpoints:
        """Where the run is saved."""
        return Checkpoints(Path(self.config.out) / "checkpoints", self.config.keep, self.world)

    @property
    def like(self) -> Tensor:
        """An empty tensor with the dtype and device of the states."""
        first = next(iter(self.trained.weights.values()))
        return torch.empty(0, dtype=first.dtype, device=self.world.device)

    def batches(self) -> list[list[Batch]]:
        """This process's batches of the coming iteration: for every update its pieces.

        Piece after piece takes the next `piece` global positions, and of those each process its `share`.
        """
        how = self.arithmetic
        mine = range(self.world.rank * how.share, (self.world.rank + 1) * how.share)
        starts = [
            [self.drawn + (update * how.pieces + piece) * how.piece for piece in range(how.pieces)]
            for update in range(how.updates)
        ]
        return [
            [
                self.prompts.batch([start + k for k in mine], self.policy.plan, self.config.seed, self.like)
                for start in row
            ]
            for row in starts
        ]
