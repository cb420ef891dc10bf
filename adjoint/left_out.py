"""What requires grad and gets none from a strategy, beside what gets one: said, not left to be found."""

import warnings
from collections.abc import Collection, Iterable

from .gradient import Gradient
from .replay.rollout import Rollout


def warn_left_out(strategy: Gradient, names: Iterable[str], reason: str) -> None:
    """Warn that the tensors of these names require grad and get none; nothing where there are none."""
    every = list(names)
    if every:
        more = f" and {len(every) - 3} more" if len(every) > 3 else ""
        warnings.warn(
            f"{strategy}: got {', '.join(every[:3])}{more} requiring grad, expected none: {reason}, so the gradient "
            "stays None; call requires_grad_(False), or use Checkpoint()",
            UserWarning,
            stacklevel=2,
        )


def warn_left_out_of(strategy: Gradient, rollout: Rollout, taken: Collection[str], reason: str) -> None:
    """As `warn_left_out`, of all that enters a run besides the registers and what is `taken`."""
    declared = rollout.declared().items()
    warn_left_out(strategy, [k for k, v in declared if v.requires_grad and k not in taken], reason)
