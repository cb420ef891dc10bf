"""What requires grad and gets none from a strategy, beside what gets one: said, not left to be found."""

import warnings
from collections.abc import Collection, Iterable

from torch import Tensor

from ..replay.rollout import Rollout
from .gradient import Gradient
from .input import Input


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


def refuse_left_out(
    strategy: Gradient, wanted: Collection[Input], taken: Collection[Input], reason: str
) -> None:
    """Raise ValueError where something else is `wanted` than what is `taken`."""
    lost = [each.value for each in wanted if each not in taken]
    if lost:
        raise ValueError(
            f"{strategy}: got {lost[0]} to differentiate, expected {', '.join(each.value for each in taken)} alone: "
            f"{reason}; use Checkpoint()"
        )


def warn_left_out_of(
    strategy: Gradient, rollout: Rollout, out: Tensor, taken: Collection[Input], reason: str
) -> None:
    """As `warn_left_out`, of all that enters a run besides what is `taken`. Raises ValueError where the sample `out`
    was reached from nothing of that.
    """
    names = [each.value for each in taken]
    at = f"{', '.join(names[:-1])} or {names[-1]}"
    if not out.requires_grad or rollout.program.learned:
        raise ValueError(f"{strategy}: got grad wanted elsewhere, expected it at {at}; use Checkpoint()")
    declared = rollout.declared().items()
    warn_left_out(strategy, [k for k, v in declared if v.requires_grad and k not in names], reason)
