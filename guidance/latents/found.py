"""What `optimise` found, and why it ended."""

import enum
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...solvers.notebook import form, mean_and_range, one_line, table
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

    def __repr__(self) -> str:
        return one_line(
            f"<Result: loss {mean_and_range(self.loss)} over {len(self.loss)}; {self.stop.name} at step {self.step}; "
            f"{self.nfe} calls, {self.vjps} VJPs>"
        )

    def _repr_html_(self) -> str:
        rows = (
            [("loss", mean_and_range(self.loss)), ("at the start", mean_and_range(self.losses[0]))]
            if len(self.losses)
            else []
        )
        rows += [("ended", f"at step {self.step}: {self.stop.value}")]
        if self.converged is not None:
            rows += [("converged", f"{int(self.converged.sum())} of {len(self.converged)}")]
        jvps = f", {self.jvps} JVPs" if self.jvps else ""
        rows += [("cost", f"{self.nfe} network calls, {self.vjps} VJPs{jvps}")]
        named = ("sample", "x", "noise", "cond", "controls")
        rows += [(name, form(getattr(self, name))) for name in named if getattr(self, name) is not None]
        rows += [] if self.seed is None else [("seed", str(self.seed))]
        return table(("Result", ""), rows)
