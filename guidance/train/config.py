"""TrainConfig: the numbers of a training run."""

import math
from dataclasses import dataclass
from pathlib import Path

from .precision import Precision


@dataclass(frozen=True)
class TrainConfig:
    """Settings of `RewardTrainer`. AdamW is the optimiser.

    Args:
        out: folder of logs and checkpoints, shared by all processes.
        iterations: rollouts in all, those before a resume included.
        lr, betas, weight_decay: of AdamW.
        samples: per optimiser step, over all processes.
        updates: batches of `samples` that one rollout yields; above 1 the later ones are off-policy.
        limit: most samples that one device takes at a time; None: all of its share.
        clip: largest L2 norm of the gradient; None: no clipping.
        precision: of the network's calls.
        ema: decay of the averaged weights that are evaluated and saved beside the trained ones; None: no
            averaging.
        seed: of prompts, starting noise, injected noise and shared choices.
        max_kl: training ends once the path KL to the reference exceeds it, in nats; needs a stochastic plan.
        patience: training ends after that many evaluations on end in which a held-out reward lies below its
            best by more than its standard error; None: never.
        evaluate_every, evaluation_samples: iterations between evaluations (None: no evaluation), and samples
            of each.
        checkpoint_every, keep: iterations between checkpoints, and how many whole ones stay.
        value_range: of a valid sample; entries at or outside it count as saturated.
        tensorboard: write event files with image grids beside log.jsonl.
        progress: show a bar.
    """

    out: Path | str
    iterations: int
    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    samples: int = 64
    updates: int = 1
    limit: int | None = None
    clip: float | None = 1.0
    precision: Precision = Precision.FULL
    ema: float | None = None
    seed: int = 0
    max_kl: float | None = None
    patience: int | None = None
    evaluate_every: int | None = 10
    evaluation_samples: int = 64
    checkpoint_every: int = 10
    keep: int = 3
    value_range: tuple[float, float] = (-1.0, 1.0)
    tensorboard: bool = True
    progress: bool = True

    def __post_init__(self) -> None:
        least = {
            "iterations": 0,
            "samples": 1,
            "updates": 1,
            "evaluation_samples": 2,
            "checkpoint_every": 1,
            "keep": 1,
            "seed": 0,
            "limit": 1,
            "patience": 1,
            "evaluate_every": 1,
        }
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise ValueError(f"TrainConfig: got {name}={value}, expected at least {low}")
        for name in ("lr", "clip", "max_kl"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"TrainConfig: got {name}={value}, expected a positive number")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(
                f"TrainConfig: got ema={self.ema}, expected a decay between 0 and 1, such as 0.999, or None"
            )
