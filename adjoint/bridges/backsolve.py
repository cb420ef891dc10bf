"""Backsolve: the adjoints of the outside libraries themselves."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Backsolve:
    """Their own adjoint: `odeint_adjoint`, `sdeint_adjoint`, restarted from the recorded state at every node
    of the plan.

    Arguments are the `adjoint_...` of theirs; None takes over what the forward solve uses (torchsde: its own
    choice). A plan of one step restarts nowhere: memory flat in N, and states that drift from the forward
    ones. `benchmarks/gradients.py` has its error beside ours.

    Cost: a call and a VJP for every evaluation of the backward solve, and one call to look for captured
    tensors; torchsde calls the network once more per step of the plan.
    """

    method: str | None = None
    rtol: float | None = None
    atol: float | None = None
    options: Mapping[str, Any] | None = field(default=None, hash=False)

    def given(self) -> dict[str, Any]:
        """What was given, under the names that both libraries use."""
        return {f"adjoint_{name}": value for name, value in vars(self).items() if value is not None}
