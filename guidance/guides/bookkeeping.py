"""What the machine keeps of a steered run and of each of its network calls; guides ask their `Context`."""

import enum
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ...solvers import Model, Noise, Plan, Prediction
from .step_law import StepLaw


class Through(enum.Enum):
    """What autograd sees of a steered run: nothing, the run with the guide's corrections held constant, or
    all of it (gradients of gradients: the memory of a plain graph over the whole run).
    """

    NOTHING = "nothing"
    STOPPED = "stopped"
    FULL = "full"


@dataclass
class Counter:
    """Model evaluations and vector-Jacobian products so far."""

    nfe: int = 0
    vjps: int = 0


@dataclass(frozen=True, eq=False)
class Setting:
    """What all steps of one run share.

    `draws` is the source of the guides' own randomness, `memories` what they keep from step to step, by
    `id(guide)`.
    """

    model: Model
    plan: Plan
    cond: Any
    draws: Noise | None
    through: Through
    counter: Counter = field(default_factory=Counter)
    memories: dict[int, dict[str, Any]] = field(default_factory=dict)


@dataclass(eq=False)
class CallRecord:
    """One network call.

    Attributes:
        setting: the run's;  law: the step's, with its predictions so far.
        index, want: which call of the plan it is, and the prediction that the plan asks it for.
        live: D(x_t), with its graph to x_t where the guide differentiates.
        drawn: draws made so far;  loss: (B,) what guides have reported.
    """

    setting: Setting
    law: StepLaw
    index: int
    want: Prediction
    live: Tensor
    drawn: int = 0
    loss: Tensor | None = None
