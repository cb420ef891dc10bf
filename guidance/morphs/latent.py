"""Latents: what a run starts from and draws, to give certain images."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ...solvers.broadcast import per_sample
from ...solvers.notebook import Shown
from .interpolation import Interpolation


@dataclass(frozen=True, eq=False, repr=False)
class Latents(Shown):
    """What enters a run.

    Attributes:
        start: (B, ...) the state at the plan's first time, or the registers that a plan with several starts from.
        noise: (slots, B, ...) draws recovered with it; None: the plan draws none, or its noise is the caller's.
        cond: conditioning.
    """

    start: Tensor | dict[str, Tensor]
    noise: Tensor | None = None
    cond: Any = None

    @property
    def state(self) -> Tensor:
        """`start`, where it is one state. Raises ValueError for registers."""
        if isinstance(self.start, Tensor):
            return self.start
        raise ValueError(
            f"latents: got the registers {', '.join(self.start)}, expected one state to search from; registers are for "
            "blends: take a falling plan and FlowEncoder()"
        )

    def towards(self, other: "Latents", weight: float, interpolation: Interpolation, cond: Any) -> "Latents":
        """What lies between: the start and every draw by `interpolation`, each sample by itself."""
        start = tree_map(lambda a, b: interpolation(a, b, weight), self.start, other.start)
        noise = None
        if self.noise is not None and other.noise is not None:
            noise = interpolation(self.noise, other.noise, weight, lead=2)
        return Latents(start, noise, cond)

    def where(self, chosen: Tensor, other: "Latents") -> "Latents":
        """This one's samples where `chosen` (B,), the other's elsewhere."""

        def pick(a: Any, b: Any) -> Any:
            return torch.where(per_sample(chosen, a), a, b) if isinstance(a, Tensor) else a

        start, cond = tree_map(pick, (self.start, self.cond), (other.start, other.cond))
        noise = None
        if self.noise is not None and other.noise is not None:
            rows = [pick(a, b) for a, b in zip(self.noise, other.noise, strict=True)]
            noise = torch.stack(rows)
        return Latents(start, noise, cond)
