"""Percentile bootstrap: how far a figure could be from what was measured, had other people been drawn."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...solvers.checked import checked
from ...solvers.kinds import described


@dataclass(frozen=True, eq=False)
class Interval:
    """Ends of an interval, of the shape of the figure."""

    low: Tensor
    high: Tensor


@checked
def bootstrap(
    statistic: Callable[[Tensor], Tensor | float],
    units: int,
    level: float = 0.95,
    replicates: int = 1000,
    seed: int = 0,
) -> Interval:
    """The interval of `statistic` over samples of the units with replacement: its (1 -+ level)/2 quantiles.

    Units must be independent: identities, or morphs that share none. Pairs of identities are not: each person stands
    in many, and an interval over pairs is far too short.

    Args:
        statistic: units drawn (units,), int64, to a figure of any shape; a figure of NaN (nothing left to compare) is
            not counted.
        units: how many there are.
        seed: of the draws, which are made on the CPU.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, section 13.3. A statistic that no resample
    can move, such as no error among all, gets an interval of length 0: it cannot tell a rare event from one that
    never happens.

    Raises:
        ValueError: no units or replicates; level not in (0, 1); a figure that is NaN in every replicate.
    """
    if units < 2 or replicates < 1 or not 0 < level < 1:
        raise ValueError(
            f"bootstrap: got {units} units, {replicates} replicates, level={level}, expected 2 or more units, 1 or "
            "more replicates and 0 < level < 1"
        )
    if not callable(statistic):
        raise TypeError(f"statistic: got {described(statistic)}, expected a function of the units drawn")
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(units, (replicates, units), generator=generator)
    found = torch.stack([_figure(statistic(drawn)) for drawn in draws])
    if bool(found.isnan().all(0).any()):
        raise ValueError(
            "bootstrap: got NaN in every replicate, expected a figure; look at statistic(torch.arange(units))"
        )
    # lower and higher: an interpolation between infinities would be NaN
    low = found.nanquantile((1 - level) / 2, dim=0, interpolation="lower")
    high = found.nanquantile((1 + level) / 2, dim=0, interpolation="higher")
    return Interval(low, high)


def _figure(value: object) -> Tensor:
    if not isinstance(value, Tensor | float | int):
        raise TypeError(
            f"statistic: got {described(value)}, expected a tensor or a number; return the figure"
        )
    return torch.as_tensor(value).double()
