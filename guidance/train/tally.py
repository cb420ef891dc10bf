"""Figures of one iteration, over its losses and over the processes."""

from typing import Any

import torch
from torch import Tensor

from ..objectives.objective import LossTerm
from .processes import Processes


class Tally:
    """Figures of one iteration.

    Attributes:
        rewards: (B,) of each batch that was scored.
        norms: L2 norm of the gradient at each optimiser step.
        losses: the figures of each loss.
    """

    def __init__(self) -> None:
        self.rewards: list[Tensor] = []
        self.norms: list[float] = []
        self.losses: list[dict[str, float]] = []

    def add(self, loss: LossTerm) -> None:
        """Take one loss in."""
        self.losses.append({"loss": float(loss.value.detach()), **loss.figures})
        if loss.rewards is not None:
            self.rewards.append(loss.rewards.detach())

    def mean(self, world: Processes) -> dict[str, Any]:
        """Means over losses and processes; spread of the rewards over all samples."""
        names = sorted({name for row in self.losses for name in row})
        mine = [[row[name] for row in self.losses if name in row] for name in names]
        table = torch.tensor(
            [[sum(values) / len(values) for values in mine]], dtype=torch.float64, device=world.device
        )
        figures: dict[str, Any] = dict(zip(names, world.gather(table).mean(0).tolist(), strict=True))
        if self.rewards:
            rewards = world.gather(torch.cat([part.double() for part in self.rewards]))
            figures |= {
                "reward": float(rewards.mean()),
                "reward_std": float(rewards.std()) if len(rewards) > 1 else 0.0,
            }
        norms = (
            {"gradient_norm": sum(self.norms) / len(self.norms), "optimiser_steps": len(self.norms)}
            if self.norms
            else {}
        )
        return {"reward": None, "loss": None, **figures, **norms}
