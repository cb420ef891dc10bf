"""What `optimise` found, and why it ended."""

import enum
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...solvers.packing import State


class Stop(enum.Enum):
    """Why `optimise` ended."""

    STEPS = "all steps done, converged or not"
    CONVERGED = "every sample's gradient or loss has settled"
    STALLED = "no sample finds a lower loss, and not all have converged"
    PATIENCE = "no improvement within the patience"
    INTERRUPT = "interrupted"
    NAN = "the loss or its gradient was not finite"


@dataclass(frozen=True)
class Result:
    """The best point found and how it was found. Every tensor is detached.

    Attributes:
        sample: (B, ...) at the best point, in the form of x;  x, noise, cond, controls: the inputs that give it.
        loss: (B,) the loss at the best point, prior included;  losses: (evaluations, B), one row per
            evaluation.
        nfe, vjps, jvps: network calls forward (replays included), backward, and in forward mode (`levenberg()`).
        seed: of the noise source, where it has one;  stop: why it ended;  step: the last step begun.
        converged: (B,) by the optimiser's own test, where it has one: `lbfgs()`, `levenberg()`.
    """

    sample: State
    x: State
    noise: Any
    cond: Any
    controls: State | None
    loss: Tensor
    losses: Tensor
    nfe: int
    vjps: int
    seed: int | None
    stop: Stop
    step: int
    converged: Tensor | None = None
    jvps: int = 0
