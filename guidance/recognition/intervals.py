"""Percentile bootstrap: how far a figure could be from what was measured, had other people been drawn."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...solvers.checked import checked
from ...solvers.kinds import described
from ...solvers.notebook import Shown


@dataclass(frozen=True, eq=False, repr=False)
class Interval(Shown):
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
    never happens. For rates `bootstrap_rate` can.

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


@checked
def bootstrap_rate(
    statistic: Callable[[Tensor], Tensor | float],
    units: int,
    level: float = 0.95,
    replicates: int = 1000,
    seed: int = 0,
) -> Interval:
    """`bootstrap` of rates in [0, 1], with an end of its own where all units agree.

    Where the rate of all units is 0 or 1 every resample's is: the end away from it is then the rate at which that has
    the chance 1 - level, 1 - (1 - level)^(1/units) from it (20 of 20 at 95 %: 86 % to 100 %).

    Arguments and errors as of `bootstrap`; ValueError too for a figure outside [0, 1]. Source: Clopper and Pearson
    1934, one-sided; the rule of three.
    """
    found = bootstrap(statistic, units, level, replicates, seed)
    value = _figure(statistic(torch.arange(units)))
    if bool(((value < 0) | (value > 1)).any()):
        raise ValueError(
            f"statistic: got figures from {float(value.min()):.4g} to {float(value.max()):.4g}, expected a rate in "
            "[0, 1]; take bootstrap for other figures"
        )
    far = rule_of_three(level, units)
    return Interval(
        torch.where(value == 1, found.low.clamp(max=1 - far), found.low),
        torch.where(value == 0, found.high.clamp(min=far), found.high),
    )


def rule_of_three(level: float, independent: int) -> float:
    """The rate at which no error among so many independent comparisons has the chance 1 - level."""
    return 1 - (1 - level) ** (1 / max(independent, 1))


def _figure(value: object) -> Tensor:
    if not isinstance(value, Tensor | float | int):
        raise TypeError(
            f"statistic: got {described(value)}, expected a tensor or a number; return the figure"
        )
    return torch.as_tensor(value).double()
